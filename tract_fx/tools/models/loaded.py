"""A model, and how to make arguments for a call of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tract_fx.tools.errors import ModelError

__all__ = ["Arguments", "LoadedModel", "Normalisation", "Shape", "Task", "built", "built_for", "tensor_arguments"]

Shape = tuple[int, ...]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a classifier is made for.

    Attributes:
        classes: how many it tells apart.
        shape: of an image, ``(channels, height, width)``.
    """

    classes: int
    shape: Shape


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model that was made from its name, in training mode.

    Attributes:
        name: as it was given.
        model: on ``meta``, without memory, where that was asked for and could be done.
        make_arguments: see :meth:`arguments`.
        shape: of one example, without the batch, where the model's own configuration says it.
        normalisation: mean and standard deviation for each channel of images in 0..1, where the configuration says them.
    """

    name: str
    model: nn.Module
    make_arguments: Callable[[int, Shape | None], Arguments]
    shape: Shape | None = None
    normalisation: Normalisation | None = None

    @property
    def on_meta(self) -> bool:
        """Whether the model holds no memory."""
        return any(tensor.is_meta for tensor in (*self.model.parameters(), *self.model.buffers()))

    def arguments(self, batch: int, shape: Shape | None = None) -> Arguments:
        """Positional and keyword arguments of one call, on the device of the model.

        Args:
            batch: number of examples.
            shape: of one example; None for the model's own.

        Raises:
            ModelError: when the model needs a shape to be given, or does not take the given one.
        """
        with torch.device("meta" if self.on_meta else "cpu"):
            return self.make_arguments(batch, shape)


def tensor_arguments(name: str, own: Shape | None) -> Callable[[int, Shape | None], Arguments]:
    """Arguments of a model that takes one tensor of numbers.

    Args:
        name: of the model.
        own: shape of one example in the model's configuration.
    """

    def make(batch: int, shape: Shape | None) -> Arguments:
        shape = shape or own
        if shape is None:
            raise ModelError(f"{name}: its configuration does not say what it is fed; give --input, such as 3x224x224")
        return (torch.randn(batch, *shape),), {}

    return make


def built(make: Callable[[], Any], *, allocate: bool) -> Any:
    """What ``make`` returns, made on ``meta`` unless ``allocate`` is set or it cannot be made there."""
    if not allocate:
        # A constructor may compute with values, and fails there; if anything else is wrong, it is wrong below as well.
        with contextlib.suppress(Exception), torch.device("meta"):
            return make()
    return make()


def built_for(make: Callable[..., Any], size_option: str, task: Task) -> Any:
    """What ``make`` returns for the images' height and width; without them where it has no such option.

    A vision transformer has to be made for a size, a convolutional network takes every size.
    """
    _, height, width = task.shape
    try:
        return make(**{size_option: height if height == width else (height, width)})
    except TypeError:  # of a wrong argument; anything else that is wrong is wrong below as well
        return make()
