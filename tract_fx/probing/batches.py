"""What loaders yield, as arguments of a model and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tract_fx.errors import ProbeError

__all__ = ["Batch", "map_tensors", "tensors_in"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        args, kwargs: of the model.
        labels: what stands beside the inputs, or under the key ``labels``; None when there is nothing.
        samples: number of examples.
        item: what ``loss`` is given: the item of the loader, with its tensors on the model's device.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Any
    samples: int
    item: Any

    @classmethod
    def of(cls, item: Any, device: torch.device) -> Batch:
        """A batch from an item of a loader; its tensors are copied, since a model may write into what it is given.

        Args:
            item: a tensor, a pair of inputs and labels, or a dictionary of keyword arguments. Inputs of a pair may be a
                tuple of positional or a dictionary of keyword arguments.
            device: of the model.

        Raises:
            ProbeError: for anything else.
        """
        item = map_tensors(lambda tensor: _copy(tensor, device), item)
        inputs, labels = item, None
        if isinstance(item, (tuple, list)):
            if len(item) not in (1, 2):
                raise ProbeError(
                    f"The loader yields a {type(item).__name__} of {len(item)}: it must be a tensor, a pair of inputs and "
                    "labels, or a dictionary of keyword arguments. Several inputs go into a pair: ((a, b), labels)."
                )
            inputs, labels = item if len(item) == 2 else (item[0], None)
        elif not isinstance(item, (Tensor, Mapping)):
            raise ProbeError(
                f"The loader yields {type(item).__name__}: it must be a tensor, a pair of inputs and labels, or a "
                "dictionary of keyword arguments."
            )
        args, kwargs = _arguments(inputs)
        samples = next((len(tensor) for tensor in tensors_in(inputs) if tensor.dim()), 0)
        return cls(args, kwargs, kwargs.get("labels") if labels is None else labels, samples, item)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else ((inputs,), {})


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    copied = tensor.detach().to(device, copy=True)
    return copied.requires_grad_(tensor.requires_grad)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor in its tuples, lists and dictionaries replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in tuples, lists, dictionaries and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, (tuple, list)) else []
