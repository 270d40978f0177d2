"""Processes of which one does something else than the others; each function is run by all ranks."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.processes import process_group
from tests.distributed.training import MODELS, Net, mean_loss
from tests.support.refused import Pairs
from tract_fx import DisagreementError, TractBackend, tract_backend
from tract_fx.distributed.agreement import TIMEOUT_VARIABLE


def caught(action: Any) -> tuple[str, float]:
    """What a ``TractError``, or the engine's, says, and after how many seconds; empty without one."""
    start = time.monotonic()
    try:
        action()
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, DisagreementError):
            inner = inner.__cause__
        return f"{type(inner or error).__name__}: {inner or error}", time.monotonic() - start
    return "", time.monotonic() - start


def world_backend(lam: float = 0.1, **arguments: Any) -> TractBackend:
    return tract_backend(lam, inner="aot_eager", process_group=distributed.group.WORLD, **arguments)


def step(model: Any, shape: tuple[int, ...] = (4, 3, 9, 8)) -> None:
    mean_loss(model(torch.randn(shape))).backward()


def convolutional() -> nn.Module:
    return MODELS["conv"][0]()


def different_lam(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port):
        model = torch.compile(convolutional(), backend=world_backend(0.1 * (1 + rank)))
        return caught(lambda: step(model))


def relative_on_one_rank(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port):
        model = torch.compile(convolutional(), backend=world_backend(relative=rank == 1))
        return caught(lambda: step(model))


def lam_is_set_on_one_rank(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port):
        backend = world_backend()
        model = torch.compile(convolutional(), backend=backend)
        step(model)
        backend.lam = 0.2
        step(model)
        if rank == 1:
            backend.lam = 0.3
        return caught(lambda: step(model))


def different_layers(rank: int, size: int, port: int) -> tuple[str, float]:
    """With a frozen stem, the head is the first layer that trains."""
    with process_group(rank, size, port):
        model = convolutional()
        model.stem.requires_grad_(rank == 0)
        return caught(lambda: step(torch.compile(model, backend=world_backend())))


def no_match(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port, 30):
        model = convolutional()
        if rank == 1:
            model = Normalised(model)
        return caught(lambda: step(torch.compile(model, backend=world_backend(on_unsupported="ignore"))))


class Normalised(nn.Module):
    """The same layers under the same names, behind a trainable normalisation."""

    def __init__(self, model: Net) -> None:
        super().__init__()
        self.norm, self.stem, self.head = nn.GroupNorm(1, 3), model.stem, model.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(self.norm(x))).flatten(1))


class Bilinear(Normalised):
    def __init__(self, model: Net) -> None:
        nn.Module.__init__(self)
        self.norm, self.stem, self.head = nn.Identity(), Pairs(8, 8, 4), nn.Linear(3 * 9 * 4, 3)


def unsupported(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port, 30):
        model = convolutional() if rank == 0 else Bilinear(convolutional())
        return caught(lambda: step(torch.compile(model, backend=world_backend())))


def never_there(rank: int, size: int, port: int) -> tuple[str, float]:
    os.environ[TIMEOUT_VARIABLE] = "1.5"
    try:
        with process_group(rank, size, port, 30):
            model = torch.compile(convolutional(), backend=world_backend())
            found = caught(lambda: step(model)) if rank == 0 else ("", 0.0)
            distributed.barrier()
            return found
    finally:
        del os.environ[TIMEOUT_VARIABLE]


def one_skips_a_backward(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port, 2):
        model = torch.compile(convolutional(), backend=world_backend())
        step(model)
        if rank == 1:
            time.sleep(6)
            return "", 0.0
        return caught(lambda: step(model))


def joined(rank: int, size: int, port: int) -> tuple[str, float]:
    with process_group(rank, size, port, 30):
        backend = tract_backend(inner="aot_eager", process_group="ddp")
        model = DistributedDataParallel(torch.compile(convolutional(), backend=backend))

        def train() -> None:
            with model.join():
                for _ in range(1 + rank):
                    step(model)

        return caught(train)


def other_graphs_without_a_match(rank: int, size: int, port: int) -> tuple[str, float]:
    """Graphs that hold the stem's weight, and in which nothing is rewritten, are nobody's concern when all have them."""
    with process_group(rank, size, port, 30):
        backend, model = world_backend(on_unsupported="ignore"), convolutional()
        penalty = torch.compile(lambda: sum(item.square().sum() for item in model.parameters()), backend=backend)
        if rank == 1:
            time.sleep(1)
        return caught(lambda: (penalty().backward(), step(torch.compile(model, backend=backend))))
