"""Copies of a model and its arguments that have shapes, dtypes and devices, and no values.

A model of a billion parameters is traced in little memory that way, and nothing that its code does to its buffers reaches
the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from tract_fx.compat import FakeCopyMode, FakeTensor, FakeTensorMode, pytree
from tract_fx.inspect.model_copy import copy_or_stand_in

__all__ = ["fake_arguments", "fake_model", "has_values"]


def has_values(model: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the model and every tensor of the arguments hold memory: tensors on ``meta`` and fake ones do not."""
    held = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    given = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    return not any(isinstance(tensor, FakeTensor) or tensor.is_meta for tensor in (*held, *given))


def fake_model(model: nn.Module, mode: FakeTensorMode) -> AbstractContextManager[nn.Module]:
    """A copy on fake tensors of ``mode``; what is on ``meta`` is taken for a CPU's.

    A model that cannot be copied is itself given fake tensors for the time.
    """
    made: dict[torch.Tensor, torch.Tensor] = {}

    def in_mode(tensor: torch.Tensor) -> torch.Tensor:
        return _in_mode(tensor, mode, made)

    def copied(model: nn.Module) -> nn.Module:
        with FakeCopyMode(mode):
            twin = copy.deepcopy(model)
        for module in twin.modules():
            for held in (module._parameters, module._buffers):
                held.update({name: in_mode(tensor) for name, tensor in held.items() if tensor is not None})
        return twin

    return copy_or_stand_in(model, copied, in_mode)


def fake_arguments(arguments: Any, mode: FakeTensorMode) -> Any:
    """Nested arguments with fake tensors in the place of tensors; leaves keep what they require."""
    made: dict[torch.Tensor, torch.Tensor] = {}
    return pytree.tree_map_only(torch.Tensor, lambda tensor: _in_mode(tensor, mode, made), arguments)


def _in_mode(tensor: torch.Tensor, mode: FakeTensorMode, made: dict[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """``tensor`` as a fake one of ``mode``, the same one each time."""
    own = isinstance(tensor, FakeTensor) and tensor.fake_mode is mode and tensor.fake_device.type != "meta"
    if own:
        return tensor
    if tensor not in made:
        made[tensor] = _converted(tensor, mode)
        # What torch._dynamo.mark_dynamic and its relatives have written on it.
        marks = {name: value for name, value in vars(tensor).items() if name.startswith("_dynamo_")}
        vars(made[tensor]).update(marks)
    return made[tensor]


def _converted(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    device = torch.device("cpu") if tensor.device.type == "meta" else tensor.device
    if tensor.device == device and not isinstance(tensor, FakeTensor):
        return mode.from_tensor(tensor, static_shapes=True)
    with mode:
        new = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, tensor.requires_grad)
    return new.requires_grad_(tensor.requires_grad)
