"""Detects models that were given to ``torch.compile`` and train outside every compiled graph.

Dynamo may skip the frame that holds the first layer, and then no backend is called and no code of this package runs.
Examples are a bare ``nn.Sequential`` in ``DistributedDataParallel``, an ``nn.LSTM``, a convolution that FSDP2 shards on its
own, and a function under ``torch.compiler.disable``. The optimiser still runs. Before its first step, the parameters that
have a gradient are compared with the inputs of compiled graphs; where a closure computes the gradients inside the step, as
in Lightning, they are compared right after it.
"""

from __future__ import annotations

import functools
import logging
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tract_fx import process_state
from tract_fx.compile.model_names import modules_of, parameters_of
from tract_fx.errors import TractWarning
from tract_fx.process_state import CompileStatus, Structure

__all__ = ["expect", "is_registered", "saw_graph"]

log = logging.getLogger(__name__)

NAMES_SHOWN = 4


def expect(model: torch.nn.Module, owner: object, *, suppress_warnings: bool = False) -> None:
    """Register a model that was given to ``torch.compile``.

    Args:
        model: the model, held weakly.
        owner: the backend, held weakly; models of one owner share compiled code.
        suppress_warnings: whether the user asked for no warnings.
    """
    _install()
    process_state.models[model] = CompileStatus(weakref.ref(owner), suppress_warnings)


def is_registered(value: object) -> bool:
    """Whether ``value`` is a model that was given to ``torch.compile`` with a backend of this package."""
    return isinstance(value, torch.nn.Module) and value in process_state.models


def saw_graph(
    model: torch.nn.Module | None, owner: object, parameters: Iterable[str], *, matched: bool, suppress_warnings: bool
) -> None:
    """Record that a graph of ``model`` was compiled with gradients enabled.

    Args:
        model: the model; None when the graph does not belong to a module.
        owner: as in :func:`expect`.
        parameters: names of the parameters that are inputs of the graph.
        matched: whether a layer of the graph is rewritten.
        suppress_warnings: as in :func:`expect`.
    """
    if model is None:
        return
    _install()
    seen = process_state.models.setdefault(model, CompileStatus(weakref.ref(owner)))
    seen.suppress_warnings, seen.due = suppress_warnings, True
    names = set(parameters)
    for each in (seen, process_state.structures.setdefault(owner, {}).setdefault(_structure(model), CompileStatus())):
        each.matched |= matched
        each.parameters |= names


def _structure(model: torch.nn.Module) -> Structure:
    """Names and classes of the modules: models that agree in them may run the same compiled code."""
    return tuple((name, type(module)) for name, module in modules_of(model))


@functools.cache
def _install() -> None:
    register_optimizer_step_pre_hook(_at_step)
    register_optimizer_step_post_hook(_at_step)


def _at_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if torch.compiler.is_compiling():
        return
    due = [(model, seen) for model, seen in list(process_state.models.items()) if seen.due]
    if not due:
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for model, seen in due:
        trained = [(name, item) for name, item in parameters_of(model) if item.grad is not None and id(item) in stepped]
        if trained:
            seen.due = False
            _check(model, seen, trained)


def _check(model: torch.nn.Module, seen: CompileStatus, trained: list[tuple[str, torch.Tensor]]) -> None:
    owner = seen.owner()
    structures = {} if owner is None else process_state.structures.get(owner, {})
    alike = structures.get(_structure(model), CompileStatus())
    names, matched = seen.parameters | alike.parameters, seen.matched or alike.matched
    compiled = {id(item) for name, item in parameters_of(model) if name in names}
    outside = [name for name, item in trained if id(item) not in compiled]
    if not outside:
        return
    more = len(outside) - NAMES_SHOWN
    shown = ", ".join(outside[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    if matched or seen.suppress_warnings:
        log.info("parameters that train outside the compiled graphs of %s: %s", type(model).__name__, shown)
        return
    none = "no graph" if not names else "no graph with a first layer"
    warnings.warn(
        f"TrAct is not applied: {none} of {type(model).__name__} was compiled, and {shown} trained outside the compiled "
        "graphs. Dynamo skipped the code that holds the first layer (torch.nn's own frames, torch.compiler.disable, "
        'suppressed errors); TORCH_LOGS="graph_breaks" shows the reason. Compile the module inside its wrappers, or call '
        "the layer from a forward() of your own.",
        TractWarning,
        stacklevel=4,
    )
