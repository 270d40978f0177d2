"""Detects models that were given to ``torch.compile`` and train outside every compiled graph.

Dynamo may skip the frame that holds the first layer, and then no backend is called and no code of this package runs.
Examples are a bare ``nn.Sequential`` in ``DistributedDataParallel``, an ``nn.LSTM``, a convolution that FSDP2 shards on its
own, and a function under ``torch.compiler.disable``. The optimiser still runs. Before its first step, the parameters that
have a gradient are compared with the inputs of compiled graphs; where a closure computes the gradients inside the step, as
in Lightning, they are compared right after it, and where no optimiser of ``torch.optim`` steps, after some backward passes.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tract_fx import process_state
from tract_fx.compile.choices import check_choices
from tract_fx.compile.model_names import modules_of, parameters_of
from tract_fx.compile.unstepped import after_backward_passes
from tract_fx.errors import TractWarning, UnsupportedLayerError
from tract_fx.passes.first_layer import is_named
from tract_fx.process_state import BackendStatus, CompileStatus, Structure
from tract_fx.wording import listed

__all__ = [
    "TrainingGraph",
    "expect",
    "is_registered",
    "rewritten_in",
    "saw_graph",
    "saw_graph_without_gradients",
]

log = logging.getLogger(__name__)

NAMES_SHOWN = 4
LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def expect(model: torch.nn.Module, owner: object, *, suppress_warnings: bool = False) -> None:
    """Register a model that was given to ``torch.compile``.

    Args:
        model: the model, held weakly.
        owner: the backend, held weakly; models of one owner share compiled code.
        suppress_warnings: whether the user asked for no warnings.
    """
    _install()
    process_state.models[model] = CompileStatus(weakref.ref(owner), suppress_warnings)
    after_backward_passes((item for _, item in parameters_of(model)), _at_gradient)


def is_registered(value: object) -> bool:
    """Whether ``value`` is a model that was given to ``torch.compile`` with a backend of this package."""
    return isinstance(value, torch.nn.Module) and value in process_state.models


@dataclasses.dataclass(frozen=True)
class TrainingGraph:
    """A graph that was compiled with gradients enabled.

    Attributes:
        model: the model; None when the graph does not belong to a module.
        names: names of the parameters that are inputs of the graph.
        parameters: these parameters; those that DDPOptimizer has replaced with fake tensors are left out.
        held: parameters that are inputs of the graph, frozen ones included, by name.
        rewritten: those that have a new gradient, by name.
        matched: whether a layer of the graph is rewritten.
        frozen: whether the graph has weights and all of them are frozen.
        warned: whether a warning has said why no layer is rewritten, or none is expected: in a later stage of a pipeline.
        reasons: why layers of the graph are no first layers.
        enclosing: the model of which ``model`` is a part.
    """

    model: torch.nn.Module | None
    names: frozenset[str]
    parameters: tuple[torch.Tensor, ...]
    held: Mapping[str, torch.Tensor]
    rewritten: Mapping[str, torch.Tensor]
    matched: bool
    frozen: bool
    warned: bool
    reasons: tuple[str, ...]
    enclosing: torch.nn.Module | None


def saw_graph(graph: TrainingGraph, owner: object, *, suppress_warnings: bool) -> None:
    """Record a graph that was compiled with gradients enabled; ``owner`` and ``suppress_warnings`` as in :func:`expect`."""
    _install()
    backend = process_state.backends.setdefault(owner, BackendStatus())
    backend.matched |= graph.matched
    backend.warned |= graph.warned
    backend.suppress_warnings = suppress_warnings
    backend.parameters.update({id(item): item for item in graph.parameters})
    backend.reasons.update(dict.fromkeys(graph.reasons))
    if graph.enclosing is not None:
        backend.enclosing = weakref.ref(graph.enclosing)
    process_state.rewritten.update({id(item): item for item in graph.rewritten.values()})
    after_backward_passes(graph.parameters, _at_gradient)
    if graph.model is None:
        return
    seen = process_state.models.setdefault(graph.model, CompileStatus(weakref.ref(owner)))
    seen.suppress_warnings, seen.due = suppress_warnings, True
    structures = process_state.structures.setdefault(owner, {})
    for each in (seen, structures.setdefault(_structure(graph.model), CompileStatus())):
        each.matched |= graph.matched
        each.frozen |= graph.frozen
        each.parameters |= graph.names
    seen.rewritten |= set(graph.rewritten)


def rewritten_in(model: torch.nn.Module | None) -> frozenset[str]:
    """Names of the parameters that graphs of a model rewrite so far."""
    seen = None if model is None else process_state.models.get(model)
    return frozenset() if seen is None else frozenset(seen.rewritten)


def saw_graph_without_gradients(model: torch.nn.Module | None) -> None:
    """Record that a graph of ``model`` was compiled with gradients disabled, as in an evaluation."""
    if model in process_state.models:
        process_state.models[model].without_gradients = True


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
    _check_per_sample()
    if _is_anything_due():
        _check_gradients(item for group in optimizer.param_groups for item in group["params"] if item.grad is not None)


def _at_gradient(arrived: torch.Tensor) -> None:
    """Check the models, and what the backends compiled, to which a parameter belongs that has got some gradients."""
    backends = list(process_state.backends.values())
    models = {*process_state.models, *(backend.enclosing() for backend in backends)} - {None}
    groups = [[item for _, item in parameters_of(model)] for model in models]
    groups += [list(backend.parameters.values()) for backend in backends]
    _check_gradients(
        item
        for group in groups
        if any(item is arrived for item in group)
        for item in group
        if item is arrived or item.grad is not None
    )


def _is_anything_due() -> bool:
    return (
        any(seen.due for seen in list(process_state.models.values()))
        or any(map(_is_due, list(process_state.backends.values())))
        or any(item.without_effect for item in list(process_state.chosen.values()))
    )


def _is_due(backend: BackendStatus) -> bool:
    return not (backend.matched or backend.warned)


def _check_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Check the models, backends and names in ``layers=[...]`` that parameters with a gradient belong to."""
    stepped = {id(item): item for item in parameters}
    told = check_choices(stepped)
    for model, seen in list(process_state.models.items()):
        if not seen.due or any(model is each for each in told):
            continue
        trained = [(name, item) for name, item in parameters_of(model) if id(item) in stepped]
        if trained:
            seen.due = False
            _check(model, seen, trained)
    for backend in list(process_state.backends.values()):
        if _is_due(backend) and any(_has(backend.parameters, item) for item in stepped.values()):
            _check_backend(backend, stepped)


def _has(parameters: Mapping[int, torch.Tensor], item: torch.Tensor) -> bool:
    return parameters.get(id(item)) is item


def _check(model: torch.nn.Module, seen: CompileStatus, trained: list[tuple[str, torch.Tensor]]) -> None:
    """Warn if parameters of a model trained outside every compiled graph, and no layer of it is rewritten."""
    owner = seen.owner()
    structures = {} if owner is None else process_state.structures.get(owner, {})
    alike = structures.get(_structure(model), CompileStatus())
    names = seen.parameters | alike.parameters
    compiled = {id(item) for name, item in parameters_of(model) if name in names}
    backends = list(process_state.backends.values())
    outside = [
        (name, item)
        for name, item in trained
        if id(item) not in compiled and not any(_has(backend.parameters, item) for backend in backends)
    ]
    if not outside:
        return
    shown = listed([name for name, _ in outside], NAMES_SHOWN)
    matched = seen.matched or alike.matched or any(_has(process_state.rewritten, item) for _, item in trained)
    if matched or seen.frozen or seen.suppress_warnings:
        log.info("parameters that train outside the compiled graphs of %s: %s", type(model).__name__, shown)
        return
    for backend in backends:
        backend.warned |= backend is process_state.backends.get(owner)
    message = _why_outside(model, shown, names, seen)
    if _is_chosen(owner, outside):
        seen.due = True
        raise UnsupportedLayerError(f"No name in layers=[...] has an effect: {message}")
    _warn(message)


def _is_chosen(owner: object | None, outside: list[tuple[str, torch.Tensor]]) -> bool:
    """Whether the user named one of these parameters or its layer, and an error is to say that it is not rewritten."""
    options = getattr(owner, "options", None)
    layers = getattr(options, "layers", "first")
    if isinstance(layers, str) or getattr(options, "on_unsupported", "") != "error":
        return False
    return any(is_named(name, item.rpartition(".")[0], (item,)) for name in layers for item, _ in outside)


def _why_outside(model: torch.nn.Module, shown: str, names: set[str], seen: CompileStatus) -> str:
    """Why parameters of a model trained outside of every compiled graph, and what to do."""
    if not names and seen.without_gradients:
        return (
            f"forward() of {type(model).__name__} is compiled, but it was not run with gradients enabled: {shown} trained "
            "through another method, which is not compiled. Compile that method, for example "
            "model.encode = torch.compile(model.encode, backend=...)."
        )
    none = "no graph" if not names else "no graph with a first layer"
    uncalled = (
        ""
        if names
        else "Either forward() was never called, because the model trains through another method "
        "(model.encode = torch.compile(model.encode, ...) compiles that method), or "
    )
    return (
        f"{none} of {type(model).__name__} was compiled, and {shown} trained outside the compiled "
        f"graphs. {uncalled}Dynamo skipped the code that holds the first layer (torch.nn's own frames, "
        'torch.compiler.disable, suppressed errors); TORCH_LOGS="graph_breaks" shows the reason. Compile the module inside '
        "its wrappers, or call the layer from a forward() of your own."
    )


def _check_backend(backend: BackendStatus, stepped: Mapping[int, torch.Tensor]) -> None:
    """Warn that no graph of a backend has a first layer, and name the layer outside of its graphs that may be one."""
    enclosing = backend.enclosing()
    modules = [] if enclosing is None else [module for _, module in modules_of(enclosing)]
    if backend.suppress_warnings or any(map(_is_wrapped, modules)):
        return
    backend.warned = True
    weights = [
        (name, item)
        for name, item in (() if enclosing is None else parameters_of(enclosing))
        if id(item) in stepped and item.dim() > 1 and not _has(backend.parameters, item)
    ]
    # A table or a token may come before the layer.
    of_layers = {id(module.weight) for module in modules if isinstance(module, LAYERS)}
    outside = next((name for name, item in weights if id(item) in of_layers), weights[0][0] if weights else None)
    reasons = "; ".join(backend.reasons) or "no layer of these graphs has an input that depends on data alone"
    advice = (
        "Pass data as arguments of the call, and compile the part of the model that data enters first."
        if outside is None
        else f"{outside} of {type(enclosing).__name__} trained outside of these graphs: compile the part of the model "
        "that holds the first layer as well, or the whole model."
    )
    _warn(f"no graph that this backend compiled for training has a first layer ({reasons.rstrip('.')}). {advice}")


def _check_per_sample() -> None:
    """Warn if a rewritten parameter has per-sample gradients, from which private optimisers compute another gradient."""
    for key, parameter in list(process_state.rewritten.items()):
        if getattr(parameter, "grad_sample", None) is not None:
            del process_state.rewritten[key]
            _warn(
                f"a rewritten weight of shape {tuple(parameter.shape)} also has per-sample gradients (grad_sample). An "
                "optimiser that steps with these, as in differentially private training, discards the gradient that TrAct "
                "computed."
            )


def _is_wrapped(module: torch.nn.Module) -> bool:
    """Whether a layer is wrapped in ``tract_fx.TrAct``, which may not be imported here."""
    return any(base.__module__ == "tract_fx.eager.layers" for base in type(module).__mro__)


def _warn(message: str) -> None:
    warnings.warn(f"TrAct is not applied: {message}", TractWarning, stacklevel=5)
