"""Copies of models that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["copied_model"]


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
