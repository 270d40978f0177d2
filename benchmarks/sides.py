"""The ways to train a network that are compared: eager or compiled, plain or with TrAct of either implementation."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx import tract_backend

__all__ = ["SIDES", "Precision", "training_step"]

LAM = 0.1

Backend = Callable[[], Any]

# name: what replaces the first layers, and what compiles
SIDES: dict[str, tuple[bool, Backend | None]] = {
    "eager": (False, None),
    "eager torch-tract": (True, None),
    "compiled": (False, lambda: "inductor"),
    "compiled torch-tract": (True, lambda: "inductor"),
    "compiled tract-fx": (False, lambda: tract_backend(LAM)),
}


@dataclasses.dataclass(frozen=True)
class Precision:
    """How a step computes.

    Attributes:
        dtype: float32, or what autocast uses.
        channels_last: whether network and images are laid out channels-last.
    """

    dtype: str = "float32"
    channels_last: bool = False

    def autocast(self, device: str) -> contextlib.AbstractContextManager[Any]:
        """The context of forward pass and loss."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device, getattr(torch, self.dtype))

    def laid_out(self, value: Any) -> Any:
        """A network or images in the memory format."""
        return value.to(memory_format=torch.channels_last) if self.channels_last else value


def training_step(
    side: str,
    model: nn.Module,
    first: Iterable[str],
    x: Tensor,
    labels: Tensor,
    precision: Precision,
    mode: str | None = None,
) -> Callable[[], None]:
    """One step - forward, loss, backward, SGD - of a copy of ``model``, as a function without arguments.

    ``mode`` is that of ``torch.compile``, for the sides that compile.
    """
    official, backend = SIDES[side]
    model = precision.laid_out(copy.deepcopy(model)).to(x.device)
    if official:
        _replace_by_official(model, first)
    compiled = model if backend is None else torch.compile(model, backend=backend(), mode=mode, dynamic=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = precision.laid_out(x)

    def run() -> None:
        if mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        with precision.autocast(x.device.type):
            loss = nn.functional.cross_entropy(compiled(x), labels)
        loss.backward()
        optimizer.step()

    return run


def _replace_by_official(model: nn.Module, names: Iterable[str]) -> None:
    from torch_tract import TrAct

    for name in names:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, TrAct(model.get_submodule(name), l=LAM))
