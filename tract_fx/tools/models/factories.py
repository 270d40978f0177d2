"""Models that a function of the user's makes, named as ``package.module:function`` or ``folder/file.py:function``."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tract_fx.options import closest
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.loaded import Arguments, LoadedModel, Shape, Task, built, tensor_arguments

__all__ = ["load_factory"]


def load_factory(module_name: str, path: str, *, allocate: bool, task: Task | None = None) -> LoadedModel:
    """What ``path`` returns when it is called without arguments, or a module that is there already.

    It is looked for in a module, or in a file whose name ends in ``.py``.

    It may return a module, or a pair of a module and its inputs: a tensor, a tuple of positional or a dictionary of keyword
    arguments. As with ``python -m``, the working directory is searched first. Where there is a task, a function that has an
    argument ``num_classes`` gets the number of its classes.

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
    made = target if isinstance(target, nn.Module) else _call(_with_classes(target, task), spec, allocate=allocate)
    model, inputs = made if isinstance(made, (tuple, list)) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec}: must return a torch.nn.Module, or a pair of one and its inputs, not {_kind(made)}")
    if inputs is None:
        return LoadedModel(spec, model.train(), tensor_arguments(spec, None))
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) and inputs.ndim > 1 else None
    return LoadedModel(spec, model.train(), _given(spec, inputs), shape)


def _import(name: str, spec: str) -> ModuleType:
    if name.endswith(".py"):
        return _import_file(Path(name), spec)
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


def _import_file(file: Path, spec: str) -> ModuleType:
    if not file.is_file():
        known = [str(other) for other in file.parent.glob("*.py")]
        raise ModelError(f"{spec}: there is no file {str(file)!r}{closest(str(file), known)}")
    sys.path.insert(0, str(file.parent.resolve()))  # as Python does for a script
    module = _import(file.stem, spec)
    if not Path(module.__file__ or "").resolve() == file.resolve():
        raise ModelError(f"{spec}: another module is called {file.stem}: give the file another name")
    return module


def _call(factory: Any, spec: str, *, allocate: bool) -> Any:
    if not callable(factory):
        raise ModelError(f"{spec}: must be a function without arguments, or a torch.nn.Module, not {_kind(factory)}")
    try:
        return built(factory, allocate=allocate)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec}: calling it failed: {_kind(error)}: {error}") from error


def _with_classes(factory: Any, task: Task | None) -> Any:
    """The function with its number of classes, where it has such an argument."""
    if task is None:
        return factory
    try:
        takes_classes = "num_classes" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # no function, or one that Python cannot look into
        return factory
    return functools.partial(factory, num_classes=task.classes) if takes_classes else factory


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
