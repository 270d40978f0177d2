"""Smaller networks with the same layers: a repeated block that keeps the shape of its input is left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

LISTS = (nn.Sequential, nn.ModuleList)


def thin(model: nn.Module, call: Callable[[], object]) -> None:
    """Leave out what repeats the class of an earlier block beside it and changes no shape.

    Names of what stays do not change. Single layers, and plain chains of them, always stay, and with them the stems.

    Args:
        model: changed in place.
        call: runs the model once; shapes are taken from this run.
    """
    keeps_shape = _blocks_that_keep_shape(model, call)
    for parent in list(model.modules()):
        seen: set[type] = set()
        for name, child in list(parent.named_children()):
            if keeps_shape.get(child) and type(child) in seen:
                _leave_out(parent, name, child)
            seen.add(type(child))


def _blocks_that_keep_shape(model: nn.Module, call: Callable[[], object]) -> dict[nn.Module, bool]:
    found: dict[nn.Module, bool] = {}

    def record(module: nn.Module, arguments: tuple, output: object) -> None:
        same = bool(arguments) and _shape(arguments[0]) == _shape(output) is not None
        found[module] = same and found.get(module, True)

    handles = [module.register_forward_hook(record) for module in model.modules() if _depth(module) > 1]
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    return found


def _leave_out(parent: nn.Module, name: str, child: nn.Module) -> None:
    if isinstance(parent, LISTS):
        del parent._modules[name]
    elif _depth(child) > 2 and not isinstance(parent, nn.ModuleDict):
        setattr(parent, name, _Skipped())


class _Skipped(nn.Module):
    def forward(self, input: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return input


def _depth(module: nn.Module) -> int:
    """Levels of modules: 1 for a layer, or a chain of layers; without parameters none."""
    if next(module.parameters(), None) is None:
        return 0
    below = max(map(_depth, module.children()), default=0)
    return max(1, below) if isinstance(module, nn.Sequential) else 1 + below


def _shape(value: object) -> torch.Size | None:
    if isinstance(value, tuple) and value:
        value = value[0]
    return value.shape if isinstance(value, torch.Tensor) else None
