"""Models that a function of the user's makes, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tract_fx.options import closest
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.loaded import Arguments, LoadedModel, Shape, built, tensor_arguments

__all__ = ["load_factory"]


def load_factory(module_name: str, path: str, *, allocate: bool) -> LoadedModel:
    """What ``path`` in a module returns when it is called without arguments, or a module that is there already.

    It may return a module, or a pair of a module and its inputs: a tensor, a tuple of positional or a dictionary of keyword
    arguments. As with ``python -m``, the working directory is searched first.

    Raises:
        ModelError: when there is no such function, it fails, or returns something else.
    """
    spec = f"{module_name}:{path}"
    target: Any = _import(module_name, spec)
    for name in path.split("."):
        if not hasattr(target, name):
            public = [known for known in dir(target) if not known.startswith("_")]
            raise ModelError(f"{spec}: {_name(target)} has no {name!r}{closest(name, public)}")
        target = getattr(target, name)
    made = target if isinstance(target, nn.Module) else _call(target, spec, allocate=allocate)
    model, inputs = made if isinstance(made, (tuple, list)) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec}: must return a torch.nn.Module, or a pair of one and its inputs, not {_kind(made)}")
    make = tensor_arguments(spec, None) if inputs is None else _given(spec, inputs)
    return LoadedModel(spec, model.train(), make)


def _import(name: str, spec: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ModelError(f"{spec}: importing {name} failed: {error}") from error
        parent = error.name.rpartition(".")[0]
        where = getattr(sys.modules.get(parent), "__path__", None)
        known = [f"{parent}.{item.name}".lstrip(".") for item in pkgutil.iter_modules(where)]
        raise ModelError(f"{spec}: there is no module {error.name!r}{closest(error.name, known)}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec}: importing {name} failed: {_kind(error)}: {error}") from error


def _call(factory: Any, spec: str, *, allocate: bool) -> Any:
    if not callable(factory):
        raise ModelError(f"{spec}: must be a function without arguments, or a torch.nn.Module, not {_kind(factory)}")
    try:
        return built(factory, allocate=allocate)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec}: calling it failed: {_kind(error)}: {error}") from error


def _given(spec: str, inputs: Any) -> Callable[[int, Shape | None], Arguments]:
    """The inputs that the function made beside the model."""
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, (tuple, list, Mapping)):
        raise ModelError(f"{spec}: inputs must be a tensor, a tuple or a dictionary, not {_kind(inputs)}")
    arguments = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})

    def make(batch: int, shape: Shape | None) -> Arguments:
        if shape is not None:
            raise ModelError(f"{spec}: makes its own inputs: leave --input out")
        return arguments

    return make


def _name(value: Any) -> str:
    return getattr(value, "__name__", None) or _kind(value)


def _kind(value: Any) -> str:
    return type(value).__name__
