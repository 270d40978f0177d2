"""One row of the table: a model, how to call it, and what is right for it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

Layer = frozenset[str]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its first layers.

    Attributes:
        id: where the model comes from and its name there, as ``timm:resnet18``.
        family: row of the report.
        kind: what the model is fed.
        make: makes the model, in training mode.
        arguments: makes the positional and the keyword arguments of one call.
        layers: for each first layer the qualified names of the parameters that its weight is computed from; almost
            always one.
        meets: operator in which data meets its first parameter, for a model that has no first layer.
        real: why the model needs tensors with values; None when fake ones do.
        made_on: device for the constructor: ``meta``, unless it computes sizes with tensors.
        known: why the backend is wrong about the model, where that is not mended yet.
        needs_torch: oldest version of torch that compiles the model with any backend.
        whole: whether to keep repeated blocks, where a model's code counts them.
    """

    id: str
    family: str
    kind: str
    make: Callable[[], nn.Module]
    arguments: Callable[[], Arguments]
    layers: frozenset[Layer] = frozenset()
    meets: str | None = None
    real: str | None = None
    made_on: str = "meta"
    known: str | None = None
    needs_torch: tuple[int, ...] = ()
    whole: bool = False

    @contextlib.contextmanager
    def built(self) -> Iterator[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
        """The model and its arguments, on fake tensors where it can be, for as long as the context lasts."""
        if self.real:
            yield self.make(), *self.arguments()
            return
        # Not made of fake tensors: constructors call ``.item()`` on some that they put on the CPU.
        with torch.device(self.made_on):
            model = self.make()
        with FakeTensorMode(allow_non_fake_inputs=True):
            _allocate(model)
            yield model, *self.arguments()


def _allocate(model: nn.Module) -> None:
    """Put parameters and buffers on the CPU, without values; ``to_empty`` cannot where modules share one."""
    made: dict[torch.Tensor, torch.Tensor] = {}

    def on_cpu(old: torch.Tensor) -> torch.Tensor:
        if old not in made:
            new = torch.empty_like(old, device="cpu")
            made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        return made[old]

    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: on_cpu(tensor) for name, tensor in held.items() if tensor is not None})


def layers_of(weights: str) -> frozenset[Layer]:
    """First layers as the tables write them: separated by spaces, and ``+`` between the parameters of one weight."""
    return frozenset(frozenset(layer.split("+")) for layer in weights.split())


def image(size: int | tuple[int, ...] = 224, channels: int = 3, batch: int = 2) -> torch.Tensor:
    """A batch of images, square unless ``size`` gives all spatial sizes."""
    return torch.randn(batch, channels, *((size, size) if isinstance(size, int) else size))
