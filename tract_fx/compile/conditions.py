"""Conditions of a graph that is a part of a model to which signals are fed as well.

Within one graph, what conditions alone feed is a first layer only where no signal feeds another one. Where a model is
compiled in pieces, or its graph breaks, the signal may be in another graph: it is then an argument of the model's call, or a
variable of the code that calls the piece.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.fx import GraphModule

from tract_fx import compat
from tract_fx.compile.between import calls_of_modules
from tract_fx.compile.model_frame import ModelFrame
from tract_fx.compile.model_names import modules_of
from tract_fx.passes.joint_graph import GraphInput, Role, is_condition

__all__ = ["beside_signals"]


def beside_signals(gm: GraphModule, inputs: tuple[GraphInput, ...], frame: ModelFrame) -> tuple[GraphInput, ...]:
    """The inputs, with the conditions marked beside which a signal is fed to another graph of the same model."""
    roles = {item.role for item in inputs}
    if Role.CONDITION not in roles or not roles.isdisjoint((Role.DATA, Role.ACTIVATION)):
        return inputs
    if not any(map(_is_signal, _tensors(_variables(gm, frame)))):
        return inputs
    return tuple(
        dataclasses.replace(item, beside_signal=True) if item.role is Role.CONDITION else item for item in inputs
    )


def _variables(gm: GraphModule, frame: ModelFrame) -> Iterator[Any]:
    """What the code around a graph holds, in the model of which the graph is a part; nothing for a graph of all its code."""
    if frame.whole is None:
        return
    inside = {module for _, module in modules_of(frame.whole)}
    calls = [found for module, found in calls_of_modules() if module in inside]
    # Other frames than those with which torch calls a compiled module are code that is running.
    inner = any(not str(found.f_globals.get("__name__")).startswith("torch.") for found in calls)
    if inner or frame.whole is not frame.model or compat.break_reason(gm) is not None:
        yield from compat.compiled_frame_locals().values()
        for found in calls:
            yield from found.f_locals.values()


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        yield from (item for item in compat.pytree.tree_leaves(value) if isinstance(item, torch.Tensor))


def _is_signal(value: torch.Tensor) -> bool:
    held = isinstance(value, torch.nn.Parameter)
    return value.is_floating_point() and not held and not is_condition(value)
