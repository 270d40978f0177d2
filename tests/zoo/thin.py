"""Smaller networks with the same layers: what repeats an earlier block is left out, or averaged away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LISTS = (nn.Sequential, nn.ModuleList)
Shapes = set[tuple[object, object]]


def thin(model: nn.Module, call: Callable[[], object]) -> None:
    """Shorten a network at every block that has no class of module in it that an earlier block beside it has not.

    Such a block is dropped where it changes no shape, and gives the mean of its input in the right shape where it does.
    Names of what stays do not change. Stems stay as they are: what is not fed by something trainable, single layers and
    plain chains of them.

    Args:
        model: changed in place.
        call: runs the model once; shapes are taken from this run.
    """
    shapes = _shapes(model, call)
    for parent in list(model.modules()):
        known: dict[type, set[type]] = {}
        for name, child in list(parent.named_children()):
            parts = set(map(type, child.modules()))
            earlier = known.setdefault(type(child), set())
            if parts <= earlier and len(shapes.get(child, ())) == 1 and _is_block(child, parent):
                _leave_out(parent, name, *next(iter(shapes[child])))
            earlier |= parts


def _leave_out(parent: nn.Module, name: str, before: object, after: object) -> None:
    same = before is not None and before == (after[0] if type(after) is tuple and after else after)
    if same and isinstance(parent, LISTS):
        del parent._modules[name]
    elif isinstance(before, torch.Size) and isinstance(after, torch.Size):
        parent._modules[name] = _Mean(None if same else after)


class _Mean(nn.Module):
    """The input itself, or its mean in another shape: still made of the input, and differentiable."""

    def __init__(self, shape: torch.Size | None) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, input: Tensor, *_: object, **__: object) -> Tensor:
        return input if self.shape is None else input.mean() + input.new_zeros(self.shape)


def _shapes(model: nn.Module, call: Callable[[], object]) -> dict[nn.Module, Shapes]:
    """For every module that is fed by something trainable, the shapes of what goes in first and of what comes out."""
    found: dict[nn.Module, Shapes] = {}
    fed_by_data: set[nn.Module] = set()

    def record(module: nn.Module, arguments: tuple, output: object) -> None:
        first = arguments[0] if arguments else None
        if isinstance(first, Tensor) and (first.is_leaf or not first.requires_grad):
            fed_by_data.add(module)
        found.setdefault(module, set()).add((_shape(first), _shape(output)))

    handles = [module.register_forward_hook(record) for module in model.modules() if _depth(module) > 1]
    call()
    for handle in handles:
        handle.remove()
    return {module: shapes for module, shapes in found.items() if module not in fed_by_data}


def _shape(value: object) -> object:
    """Shape of a tensor, shapes of the tensors in a tuple."""
    if isinstance(value, tuple):
        return tuple(map(_shape, value))
    return value.shape if isinstance(value, Tensor) else None


def _is_block(module: nn.Module, parent: nn.Module) -> bool:
    """In a list: layers in a module. As an attribute, where convolution and activation often are one module: blocks."""
    chain, listed = isinstance(module, nn.Sequential), isinstance(parent, (*LISTS, nn.ModuleDict))
    return _depth(module) > (1 if chain or listed else 2)


def _depth(module: nn.Module) -> int:
    """Levels of modules: 1 for a layer, or a chain of layers; without parameters none."""
    if next(module.parameters(), None) is None:
        return 0
    below = max(map(_depth, module.children()), default=0)
    return max(1, below) if isinstance(module, nn.Sequential) else 1 + below
