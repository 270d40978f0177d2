"""Names in ``layers=[...]`` that take effect nowhere: an error before the first step in which that matters.

The backend knows whether a model has a name, and the pass whether a layer of its graph can be rewritten. Neither sees a
layer that no graph holds: one that Dynamo skipped, that was never called, or a container whose name stands for no layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from tract_fx import process_state
from tract_fx.compile.model_names import modules_of, parameters_of
from tract_fx.errors import TractWarning, UnsupportedLayerError
from tract_fx.passes.first_layer import is_named
from tract_fx.passes.naming import without_wrappers
from tract_fx.process_state import ChosenLayers
from tract_fx.records import GraphRecord, Severity
from tract_fx.wording import listed

if TYPE_CHECKING:
    from tract_fx.compile.model_frame import ModelFrame

__all__ = ["check_choices", "saw_choice"]

NAMES_SHOWN = 3


def saw_choice(
    backend: object,
    layers: str | Sequence[str],
    on_unsupported: str,
    frame: ModelFrame,
    record: GraphRecord,
) -> None:
    """Record which names have an effect in a graph that was compiled with gradients enabled, or were refused there.

    Args:
        backend: the backend, held weakly.
        layers: the option as the user gave it.
        on_unsupported: the option.
        frame: the model of the graph; of a plain function every name is checked when it is compiled.
        record: the findings.
    """
    if isinstance(layers, str) or frame.model is None or frame.whole is None:
        return
    settled = [(item.layer, item.weight.split(", ")) for item in record.matches]
    settled += [(item.layer, item.weight.split(", ")) for item in record.rejections if item.severity is Severity.ERROR]
    chosen = process_state.chosen.setdefault(backend, ChosenLayers(on_unsupported, set(layers)))
    chosen.models.add(frame.whole)
    for name in list(chosen.without_effect):
        aliases = frame.with_aliases((name,))
        if any(is_named(alias, *each) for alias in aliases for each in settled):
            chosen.without_effect.discard(name)
        elif name not in aliases:  # it is one of the part that is compiled
            chosen.models.add(frame.model)


def check_choices(stepped: Mapping[int, torch.Tensor]) -> list[torch.nn.Module]:
    """Raise or warn where a name took no effect and its parameters are about to be stepped, or never can be.

    Args:
        stepped: the parameters that have a gradient in this step, by ``id``.

    Returns:
        The models of which something was said.

    Raises:
        UnsupportedLayerError: naming each such name and why it has no effect.
    """
    told: list[torch.nn.Module] = []
    for backend, chosen in list(process_state.chosen.items()):
        if not chosen.without_effect or not _concerned(backend, chosen, stepped):
            continue
        reasons = {name: _reason(name, list(chosen.models), stepped) for name in sorted(chosen.without_effect)}
        told.extend(chosen.models)
        _say(chosen, {name: reason for name, (reason, _) in reasons.items() if reason}, later=False)
        _say(chosen, {name: reason for name, (_, reason) in reasons.items() if reason}, later=True)
    return told


def _concerned(backend: object, chosen: ChosenLayers, stepped: Mapping[int, torch.Tensor]) -> bool:
    """Whether the step is one of a model that the backend compiles: another optimiser's step proves nothing."""
    compiled: Mapping[int, torch.Tensor] = process_state.training.get(backend, {})
    held = (item for model in chosen.models for name in chosen.without_effect for _, item in _held(name, model))
    return any(compiled.get(key) is item for key, item in stepped.items()) or any(id(item) in stepped for item in held)


def _say(chosen: ChosenLayers, reasons: Mapping[str, str], *, later: bool) -> None:
    message = "\n".join(f"{name!r} in layers=[...] has no effect: {reason}" for name, reason in reasons.items())
    if not message or chosen.on_unsupported == "ignore":
        return
    if not later and chosen.on_unsupported == "error":
        raise UnsupportedLayerError(message)
    if not later:
        chosen.without_effect.difference_update(reasons)
    if not later or not chosen.waiting.issuperset(reasons):
        chosen.waiting.update(reasons)
        warnings.warn(f"TrAct is not applied: {message}", TractWarning, stacklevel=6)


def _reason(
    name: str, models: Sequence[torch.nn.Module], stepped: Mapping[int, torch.Tensor]
) -> tuple[str | None, str | None]:
    """Why a name has no effect, and else why it has none yet."""
    held = [(qualified, item) for model in models for qualified, item in _held(name, model)]
    if not held:
        return "there is no parameter in it.", None
    if not any(item.requires_grad for _, item in held):
        return f"it is frozen (requires_grad=False of {_shown(held)}).", None
    trained = [(qualified, item) for qualified, item in held if id(item) in stepped]
    if not trained:
        return None, f"no gradient has reached {_shown(held)} so far."
    if not any(is_named(name, qualified.rpartition(".")[0], (qualified,)) for qualified, _ in held):
        below = list(dict.fromkeys(qualified.rpartition(".")[0] for qualified, item in trained if item.dim() > 1))
        return f"it is no layer but holds others. Name the layer itself: {listed(below, NAMES_SHOWN)}.", None
    return (
        f"{_shown(trained)} trained, and no compiled graph with gradients calls that layer: either Dynamo skipped or left "
        'its code (TORCH_LOGS="graph_breaks" shows the reason), or code that is not compiled calls it. Remove the name, or '
        'compile that code; on_unsupported="warn" trains it with its plain gradient.'
    ), None


def _held(name: str, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that a name stands for: itself, or those in the module of that name, each once."""
    roots = [module for qualified, module in modules_of(model) if is_named(name, without_wrappers(qualified), ())]
    inside = {id(item) for module in roots for _, item in parameters_of(module)}
    seen: set[int] = set()
    for qualified, item in parameters_of(model):
        if id(item) not in seen and (id(item) in inside or is_named(name, qualified, ())):
            seen.add(id(item))
            yield qualified, item


def _shown(held: Sequence[tuple[str, torch.Tensor]]) -> str:
    return listed([qualified for qualified, _ in held], NAMES_SHOWN)
