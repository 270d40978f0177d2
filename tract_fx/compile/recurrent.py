"""Recurrent cells that are compiled by themselves: a graph for the first step, which data feed, and one for the others.

A layer that its own output feeds is no first layer. Within one graph the pass sees that. Here it shows only when the second
graph is compiled, and the first has been rewritten by then.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch.fx import GraphModule

from tract_fx import compat, process_state
from tract_fx.compile.between import weights_fed_by
from tract_fx.compile.origins import leaves_behind
from tract_fx.errors import TractWarning
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.records import GraphRecord

__all__ = ["note_fed_by_data", "warn_about_cells", "weights_fed_by_themselves", "zeros_among"]


def weights_fed_by_themselves(gm: GraphModule, inputs: Sequence[GraphInput]) -> frozenset[str]:
    """Names of parameters of layers that are fed by what was computed with them; to be called before ``gm`` is compiled."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    values = {
        placeholder: value
        for placeholder, item in zip(placeholders, inputs, strict=True)
        if item.role is Role.ACTIVATION and (value := compat.real_value(placeholder)) is not None
    }
    if not values:
        return frozenset()
    held = {
        id(value): item.name
        for placeholder, item in zip(placeholders, inputs, strict=True)
        if item.role is Role.PARAMETER and (value := compat.real_value(placeholder)) is not None
    }
    behind = {
        placeholder: {held[id(leaf)] for leaf in leaves_behind(value) if id(leaf) in held}
        for placeholder, value in values.items()
    }
    starts = {placeholder for placeholder, names in behind.items() if names}
    return weights_fed_by(gm, inputs, starts) & frozenset().union(*behind.values()) if starts else frozenset()


def zeros_among(gm: GraphModule, inputs: Sequence[GraphInput]) -> frozenset[int]:
    """Positions of the inputs that are data and zero everywhere, as the first state of a cell is.

    To be called before ``gm`` is compiled.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    return frozenset(
        position
        for position, (placeholder, item) in enumerate(zip(placeholders, inputs, strict=True))
        if item.role is Role.DATA and _is_zero(compat.real_value(placeholder))
    )


def _is_zero(value: torch.Tensor | None) -> bool:
    if value is None or type(value) is not torch.Tensor or value.device.type == "meta":
        return False
    return not bool(value.any())


def note_fed_by_data(record: GraphRecord, rewritten: Mapping[str, torch.Tensor], zeros: frozenset[int]) -> None:
    """Remember the rewritten weights, but for those that only zeros feed: their gradient is zero in any case.

    Args:
        record: the findings of a graph.
        rewritten: parameters of the graph that are rewritten, by name.
        zeros: as from :func:`zeros_among`.
    """
    for match, source in zip(record.matches, record.sources, strict=True):
        if source not in zeros:
            found = [rewritten[name] for name in match.weight.split(", ") if name in rewritten]
            process_state.fed_by_data.update({id(item): item for item in found})


def warn_about_cells(names: frozenset[str], parameters: Mapping[str, torch.Tensor], reported: set[str]) -> None:
    """Warn about layers that another graph rewrites, and that their own output feeds in this one.

    Args:
        names: of the parameters that their own output feeds.
        parameters: those of the graph, by name.
        reported: keys of the warnings that are given once.
    """
    for name in sorted(names & parameters.keys()):
        rewritten = process_state.fed_by_data.get(id(parameters[name])) is parameters[name]
        if rewritten and (key := f"a recurrent cell: {name}") not in reported:
            reported.add(key)
            warnings.warn(
                f"TrAct is applied to {name} only where data alone feed its layer. Elsewhere its own output feeds it (a "
                "recurrent cell), and it trains with its plain gradient. Compile the loop together with the cell, or name "
                'the first layers with layers=[...]. on_unsupported="ignore" silences this.',
                TractWarning,
                stacklevel=4,
            )
