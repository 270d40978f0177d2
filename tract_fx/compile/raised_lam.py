"""Saying once that ``lam`` is raised, because float64 could not tell it from zero beside the squares of the inputs.

What is raised is decided on the device, in every backward pass (:func:`tract_fx.ops.solve.shift`); to ask there would wait
for it. The inputs of the first call say the same, where a layer is fed with an input of the graph as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tract_fx.compile.lam_input import LamValue
from tract_fx.errors import TractWarning
from tract_fx.ops.solve import ROUNDING_SAFETY
from tract_fx.records import GraphRecord, LayerMatch

__all__ = ["watching_lam"]

# Padding and batched systems make the trace of one system differ from what is estimated here; below this factor nothing is
# said.
CERTAIN = 2.0


def watching_lam(call: Callable[..., Any], record: GraphRecord, lam: LamValue, warned: set[str]) -> Callable[..., Any]:
    """``call``, which looks at its inputs once; ``call`` itself where no layer is fed with an input.

    Args:
        call: runs a compiled graph.
        record: the findings of the graph.
        lam: of the backend.
        warned: keys of the warnings that are not to be repeated.
    """
    fed = [(match, source) for match, source in zip(record.matches, record.sources, strict=True) if source is not None]
    if not fed:
        return call
    waiting = [fed]

    def watched(*args: Any) -> Any:
        if waiting and torch.is_grad_enabled():
            for match, source in waiting.pop():
                _look(match, args[source], lam.value, warned)
        return call(*args)

    return watched


def _look(match: LayerMatch, input: Any, lam: float, warned: set[str]) -> None:
    if match.relative or not isinstance(match.size, int) or type(input) is not Tensor or not input.numel():
        return  # a relative lam grows with the inputs
    # A norm is summed in float64 without a copy of the inputs in it.
    mean_square = torch.linalg.vector_norm(input.detach(), dtype=torch.float64).item() ** 2 / input.numel()
    trace = match.features * mean_square
    least = ROUNDING_SAFETY * match.size * torch.finfo(torch.float64).eps * trace
    name = match.layer or match.weight
    key = f"raised lam: {name}"
    if not least > CERTAIN * lam or least == float("inf") or key in warned:
        return
    warned.add(key)
    warnings.warn(
        f"{name}: lam={lam:g} is raised to about {least:.1e} for these inputs, the least that float64 can tell from zero "
        f"beside their mean square of {mean_square:.1e}. The gradient is divided by at least that. Bring the "
        "inputs to the scale that lam is meant for, a variance of about 1; tract_fx.probe(model, loader) says which.",
        TractWarning,
        stacklevel=2,
    )
