"""Where in the user's model the frame stands that Dynamo is compiling."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import torch

from tract_fx.compat import compiled_frame_locals

__all__ = ["ModelFrame", "current_frame"]


@dataclasses.dataclass(frozen=True)
class ModelFrame:
    """The module whose ``forward`` is being compiled, and the model that the user compiled.

    Attributes:
        prefix: qualified name of the module in the model, empty for the model itself.
        names: qualified names of the modules and parameters of the model; empty when no model is known, as for a function.
    """

    prefix: str = ""
    names: frozenset[str] = frozenset()


def current_frame() -> ModelFrame:
    """The frame of the compilation under way."""
    local_modules = [value for value in compiled_frame_locals().values() if isinstance(value, torch.nn.Module)]
    model = next(_compiled_models(), None)
    if model is None:
        names = frozenset().union(*map(_names, local_modules))
        return ModelFrame(names=names)
    paths = {module: name for name, module in model.named_modules()}
    prefix = next((paths[module] for module in local_modules if module in paths), "")
    return ModelFrame(prefix, _names(model))


def _compiled_models() -> Iterator[torch.nn.Module]:
    """Models that are being called and were given to ``torch.compile`` or ``module.compile()``, innermost first."""
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, torch._dynamo.eval_frame.OptimizedModule):
            yield owner._orig_mod
        elif isinstance(owner, torch.nn.Module) and getattr(owner, "_compiled_call_impl", None) is not None:
            yield owner
        frame = frame.f_back


def _names(model: torch.nn.Module) -> frozenset[str]:
    modules = (name for name, _ in model.named_modules(remove_duplicate=False))
    parameters = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return frozenset((*modules, *parameters)) - {""}
