"""First layers whose input was made by code between two graphs.

Such code leaves no history: nothing shows whether it made a signal from data, or codes from what a network computed. An
argument of the model's call is known to be data, and so is an output of an earlier graph that depends on no parameter.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from types import FrameType

import torch
from torch.fx import GraphModule, Node

from tract_fx import compat
from tract_fx.compile.origins import has_origin
from tract_fx.passes.joint_graph import GraphInput, Role

__all__ = ["calls_of_modules", "weights_fed_between", "weights_fed_by"]

_LOCAL = re.compile(r"^L\[['\"]\w+['\"]\]$")


@dataclasses.dataclass(frozen=True)
class _Made:
    """What a value is made of: inputs to start from, trainable values, or the named parameters alone."""

    starting: bool = False
    trainable: bool = False
    weights: frozenset[str] = frozenset()


def weights_fed_between(gm: GraphModule, inputs: Sequence[GraphInput], model: torch.nn.Module | None) -> frozenset[str]:
    """Names of the parameters that are combined first with a tensor that code between two graphs has made.

    Empty where the arguments of the model's call are not known.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    open_values = [
        (placeholder, value)
        for placeholder, item in zip(placeholders, inputs, strict=True)
        if item.role is Role.DATA and (value := _local_value(placeholder)) is not None and not has_origin(value)
    ]
    arguments = _arguments_of(model) if open_values and model is not None else None
    if arguments is None:
        return frozenset()
    given = {_address(item) for item in arguments}
    unknown = {placeholder for placeholder, value in open_values if _address(value) not in given}
    return weights_fed_by(gm, inputs, unknown) if unknown else frozenset()


def _local_value(placeholder: Node) -> torch.Tensor | None:
    """The floating-point tensor of a local variable; one that an object or a module holds is none of the code's making."""
    source = compat.source_name(placeholder)
    value = compat.real_value(placeholder)
    if source is None or not _LOCAL.match(source) or value is None or not value.is_floating_point():
        return None
    return value


def _arguments_of(model: torch.nn.Module) -> list[torch.Tensor] | None:
    """The tensors with which the compiled model was called, by the outermost call on the stack; None where there is none."""
    found: list[torch.Tensor] | None = None
    for _, frame in calls_of_modules():
        variables = frame.f_locals
        if compat.compiled_module(variables["self"]) is model and "args" in variables and "kwargs" in variables:
            leaves = compat.pytree.tree_leaves((variables["args"], variables["kwargs"]))
            found = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return found


def calls_of_modules() -> Iterator[tuple[torch.nn.Module, FrameType]]:
    """The frames of modules on the call stack, innermost first, each with its module: what was compiled, no wrapper."""
    for frame in compat.stack():
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch.nn.Module):
            yield compat.compiled_module(owner) or owner, frame


def _address(tensor: torch.Tensor) -> int:
    storage = compat.storage_of(tensor)
    return id(tensor) if storage is None else compat.storage_address(storage)


def weights_fed_by(gm: GraphModule, inputs: Sequence[GraphInput], starts: set[Node]) -> frozenset[str]:
    """Names of the parameters that are combined first with one of the given inputs, and with nothing trainable before."""
    items = dict(zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True))
    made: dict[Node, _Made] = {}
    found: set[str] = set()
    for node in gm.graph.nodes:
        if node in items:
            item, starting = items[node], node in starts
            weights = frozenset((item.name,)) if item.role is Role.PARAMETER else frozenset()
            made[node] = _Made(starting, item.role is Role.ACTIVATION and not starting, weights)
            continue
        values = [made[operand] for operand in node.all_input_nodes if operand in made]
        weights = frozenset[str]().union(*(value.weights for value in values))
        if any(value.starting and not value.trainable for value in values):
            found |= weights
        alone = all(value.weights for value in values)
        trainable = any(value.trainable for value in values) or (bool(weights) and not alone)
        made[node] = _Made(any(value.starting for value in values), trainable, weights if alone else frozenset())
    return frozenset(found)
