"""Which part of the user's model the frame that Dynamo is compiling belongs to."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from tract_fx.compat import compiled_frame_locals, compiled_module
from tract_fx.compile.inputs import naming_of_function
from tract_fx.compile.skipped import is_registered
from tract_fx.passes.naming import Naming

__all__ = ["ModelFrame", "current_frame"]


@dataclasses.dataclass(frozen=True)
class ModelFrame:
    """The model of a frame, and the names in it.

    Attributes:
        naming: translates Dynamo's names into those of the user's model.
        names: qualified names of the modules and parameters of that model; None when no model is known, as for a function.
        model: the model; None when none is known.
    """

    naming: Naming
    names: frozenset[str] | None
    model: torch.nn.Module | None = None


def current_frame(gm: torch.fx.GraphModule) -> ModelFrame:
    """The frame from which Dynamo captured ``gm``; to be called while Dynamo calls the backend."""
    variables = compiled_frame_locals()
    model = next(_compiled_models(), None) or _owner_of_method(variables)
    if model is None:
        return ModelFrame(naming_of_function(gm), None)
    paths = {module: name for name, module in model.named_modules()}
    for variable, value in variables.items():
        owner = getattr(value, "__self__", value)
        if isinstance(owner, torch.nn.Module) and owner in paths:
            return ModelFrame(Naming(variable, paths[owner]), _names(model), model)
    return ModelFrame(naming_of_function(gm), _names(model), model)


def _compiled_models() -> Iterator[torch.nn.Module]:
    """Models on the call stack that were given to ``torch.compile`` or ``module.compile()``, innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if (model := compiled_module(owner)) is not None:
            yield model
        frame = frame.f_back


def _owner_of_method(variables: dict[str, Any]) -> torch.nn.Module | None:
    """The model one of whose other methods is compiled, as Lightning does with ``training_step``.

    The model itself was given to ``torch.compile``, but the compiled module that this returned is never called.
    """
    owner = variables.get("self")
    return owner if is_registered(owner) else None


def _names(model: torch.nn.Module) -> frozenset[str]:
    modules = (name for name, _ in model.named_modules(remove_duplicate=False))
    parameters = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return frozenset((*modules, *parameters)) - {""}
