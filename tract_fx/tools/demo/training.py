"""Both sides of one network: same weights, same batches, same schedule, and the numbers of every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from tract_fx.tools.demo.models import Recipe
from tract_fx.tools.images.arrays import TrainingData
from tract_fx.tools.training.batches import classified_right, shuffled
from tract_fx.tools.training.loop import make_optimizer
from tract_fx.tools.training.progress import Watcher
from tract_fx.tools.training.sides import CompiledSides, Side, SideRun, alternating, first_step_seconds


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
        first_step_seconds: a training step before all others, nearly all of it compilation.
        epoch_seconds: median training time of an epoch.
        correct: bool `(test images,)`, which ones the trained network gets right.
        filters: float32 `(filters, channels, height, width)`, first-layer weight after training.
    """

    epochs: tuple[Epoch, ...]
    first_step_seconds: float
    epoch_seconds: float
    correct: Tensor
    filters: Tensor


def train_sides(
    compiled: CompiledSides,
    sides: tuple[Side, ...],
    recipe: Recipe,
    data: TrainingData,
    schedule: Schedule,
    watcher: Watcher,
) -> dict[str, Run]:
    """Train each side from the weights that the network has; the sides take turns, an epoch at a time.

    Returns:
        The run of each side, by its name.
    """
    weights = {name: value.clone() for name, value in compiled.model.state_dict().items()}
    total = schedule.epochs * (len(data.train_images) // schedule.batch_size)

    def begin(side: Side) -> SideRun:
        return SideRun(
            side, compiled, weights, lambda trained: make_optimizer(recipe.optimizer, trained, recipe.peak_rate), total
        )

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return shuffled(data, schedule.batch_size, schedule.seed, epoch)

    first = {side.name: first_step_seconds(begin(side), next(batches(1))) for side in sides}
    epochs: dict[str, list[Epoch]] = {side.name: [] for side in sides}
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    for run in alternating([begin(side) for side in sides], schedule.epochs):
        name = run.side.name
        trained = run.train_on(watcher.counted(batches(run.epochs + 1)))
        correct = classified_right(run, data)
        epochs[name].append(Epoch(trained.loss, correct.float().mean().item()))
        seconds[name].append(trained.seconds)
        watcher.epoch(f"{recipe.title} {name}", run.epochs, trained.loss, epochs[name][-1].test_accuracy)
        ends[name] = correct.cpu(), compiled.model.first_layer.weight.detach().cpu().clone()
    return {name: Run(tuple(epochs[name]), first[name], median(seconds[name]), *ends[name]) for name in epochs}
