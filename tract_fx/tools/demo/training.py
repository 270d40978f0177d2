"""One training run: fixed batches, fixed schedule, and the numbers of every epoch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Protocol

import torch
from torch import Tensor, nn

from tract_fx.tools.demo.models import Recipe
from tract_fx.tools.images.arrays import TrainingData

WARM_UP = 0.2
EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Schedule:
    """What both sides share: passes over the data, images per step, and the seed of the batches."""

    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Epoch:
    """Mean training loss in nats over the epoch's steps, and the share of test images classified right after it."""

    train_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        epochs: one record per epoch.
        first_step_seconds: the first training step, nearly all of it compilation.
        epoch_seconds: median training time of an epoch without compilation; None when there was a single step.
        correct: bool `(test images,)`, which ones the trained network gets right.
        filters: float32 `(filters, channels, height, width)`, first-layer weight after training.
    """

    epochs: tuple[Epoch, ...]
    first_step_seconds: float
    epoch_seconds: float | None
    correct: Tensor
    filters: Tensor


class Watcher(Protocol):
    """Told how the training goes."""

    def step(self) -> None:
        """A training step is done."""

    def epoch(self, number: int, result: Epoch) -> None:
        """An epoch is done; numbers count from 1."""


def train(
    model: nn.Module, compiled: nn.Module, recipe: Recipe, data: TrainingData, schedule: Schedule, watcher: Watcher
) -> Run:
    """Train `compiled`, which shares its parameters with `model`.

    Testing runs `model` itself, so that no second graph is compiled for it.
    """
    steps = len(data.train_images) // schedule.batch_size
    optimizer = recipe.optimizer(model.parameters(), lr=recipe.peak_rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_share, total=schedule.epochs * steps))
    clock = StepClock(data.train_images.device)
    results = []
    for number in range(1, schedule.epochs + 1):
        model.train()
        clock.start_epoch()
        total = torch.zeros((), device=data.train_images.device)
        for images, labels in batches(data, schedule, number):
            loss = nn.functional.cross_entropy(compiled(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rates.step()
            total += loss.detach()
            clock.step()
            watcher.step()
        clock.end_epoch()
        correct = classified_right(model, data)
        results.append(Epoch((total / steps).item(), correct.float().mean().item()))
        watcher.epoch(number, results[-1])
    filters = model.first_layer.weight.detach().cpu().clone()
    return Run(tuple(results), clock.first_step_seconds, clock.epoch_seconds(steps), correct.cpu(), filters)


def rate_share(step: int, total: int) -> float:
    """Learning rate of step `step` of `total`, counted from 0, as a share of its peak: linear up, cosine down."""
    warm_up = WARM_UP * total
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (total - warm_up))


def batches(data: TrainingData, schedule: Schedule, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The full batches of one epoch, in an order that depends on the seed and the epoch only.

    The incomplete last batch is dropped: another shape would be compiled for it.
    """
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + epoch)
    order = torch.randperm(len(data.train_images), generator=generator).to(data.train_images.device)
    for chosen in order.split(schedule.batch_size):
        if len(chosen) == schedule.batch_size:
            yield data.train_images[chosen], data.train_labels[chosen]


@torch.no_grad()
def classified_right(model: nn.Module, data: TrainingData) -> Tensor:
    """Whether each test image is classified right: bool `(test images,)`. Leaves the model in evaluation mode."""
    model.eval()
    batches_of = zip(data.test_images.split(EVALUATION_BATCH), data.test_labels.split(EVALUATION_BATCH), strict=True)
    return torch.cat([model(images).argmax(dim=1) == labels for images, labels in batches_of])


class StepClock:
    """Times epochs of training steps, the very first step apart because it compiles."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._epochs: list[float] = []
        self._started = 0.0
        self.first_step_seconds = 0.0

    def start_epoch(self) -> None:
        """An epoch begins now."""
        self._started = self._now()

    def step(self) -> None:
        """A step is done."""
        if not self.first_step_seconds:
            self.first_step_seconds = self._now() - self._started
            self._started = self._now()

    def end_epoch(self) -> None:
        """An epoch ends now."""
        self._epochs.append(self._now() - self._started)

    def epoch_seconds(self, steps: int) -> float | None:
        """Median seconds per epoch of `steps` steps; the first epoch, one step short, counts only if alone."""
        if len(self._epochs) > 1:
            return median(self._epochs[1:])
        return self._epochs[0] * steps / (steps - 1) if steps > 1 else None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
