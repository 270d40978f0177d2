"""Copies of models that ``copy.deepcopy`` refuses, and what stands in for a copy where there is none."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tract_fx.compat import pytree

__all__ = ["copied_model", "copy_or_stand_in"]


def copied_model(model: nn.Module) -> nn.Module:
    """A deep copy of a model with values.

    Tensors with an autograd history are copied without it. ``torch.nn.utils.weight_norm`` keeps one as an attribute and
    computes it again in every call, and ``copy.deepcopy`` refuses those.

    Raises:
        Exception: whatever the classes of the model raise when they are copied.
    """
    with _WithoutHistory():
        return copy.deepcopy(model)


class _WithoutHistory(TorchFunctionMode):
    """Copies a tensor that is no leaf as a leaf."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone().requires_grad_()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _copied_tensor(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


@contextlib.contextmanager
def copy_or_stand_in(
    model: nn.Module,
    copied: Callable[[nn.Module], nn.Module] = copied_model,
    replaced: Callable[[Tensor], Tensor] = _copied_tensor,
) -> Iterator[nn.Module]:
    """A copy of a model; where it cannot be copied, the model itself on other tensors for the time.

    Args:
        model: it has its own tensors again afterwards.
        copied: makes the copy, by default one with values.
        replaced: makes the other tensors, by default copies.
    """
    twin: nn.Module | None = None
    with contextlib.suppress(Exception):  # whatever the user's own classes raise
        twin = copied(model)
    if twin is not None:
        yield twin
        return
    with _with_tensors(model, replaced):
        yield model


@contextlib.contextmanager
def _with_tensors(model: nn.Module, replaced: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give a model other tensors for a while: parameters, buffers and attributes, each replaced once.

    Afterwards the attributes of all its modules are what they were. What its code does to other objects remains.
    """
    made: dict[int, Tensor] = {}
    # They hold every tensor, so that no two of them have the same ``id``.
    originals = [(module, dict(vars(module))) for module in model.modules()]

    def other(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = replaced(tensor)
        return made[id(tensor)]

    try:
        for module, attributes in originals:
            vars(module).update(
                (name, pytree.tree_map_only(torch.Tensor, other, value))
                for name, value in attributes.items()
                if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))
            )
        yield
    finally:
        for module, attributes in originals:
            vars(module).clear()
            vars(module).update(attributes)
