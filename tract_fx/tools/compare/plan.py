"""How long the runs are, so that all of them fit into the time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tract_fx.tools.errors import CompareError
from tract_fx.tools.training.sides import Side

__all__ = ["MAX_EPOCHS", "Cost", "Plan", "make_plan"]

MAX_EPOCHS = 100
SHARE = 0.9
"""Of the time that is planned; the rest is for what a machine does beside, and for the report."""


@dataclass(frozen=True)
class Cost:
    """What was measured after the compilation, in seconds.

    Attributes:
        step: a training step of each side, by its name.
        epoch: what comes to the steps of an epoch: the test, and writing the checkpoint.
    """

    step: Mapping[str, float]
    epoch: float


@dataclass(frozen=True)
class Plan:
    """Length of every run; the learning rate falls to zero at its end.

    Attributes:
        epochs: passes over the training images, with a test after each.
        steps: of the optimiser in all; fewer than an epoch has, where only a part of one fits.
    """

    epochs: int
    steps: int


def make_plan(
    cost: Cost, sides: Iterable[Side], seeds: int, steps_per_epoch: int, seconds: float | None, epochs: int | None
) -> tuple[Plan, float]:
    """The longest plan for a time.

    Args:
        cost: as measured.
        sides: of the comparison.
        seeds: how many runs each side has.
        steps_per_epoch: full batches in the training images.
        seconds: that are left; None for no limit.
        epochs: passes over the images, if they were asked for; otherwise as many as fit, at most `MAX_EPOCHS`.

    Returns:
        The plan, and the seconds that it is expected to take.

    Raises:
        CompareError: when not even a step fits.
    """
    sides = list(sides)
    step, around = sum(cost.step[side.name] for side in sides), len(sides) * cost.epoch
    epoch = steps_per_epoch * step + around
    if epochs is None:
        if seconds is None:
            raise ValueError("without a time, the number of epochs has to be given")
        epochs = min(MAX_EPOCHS, math.floor(SHARE * seconds / (seeds * epoch)))
    if epochs > 0 or seconds is None:
        return Plan(epochs, epochs * steps_per_epoch), seeds * epochs * epoch
    steps = math.floor((SHARE * seconds / seeds - around) / step)
    if steps < 1:
        raise CompareError(
            f"--minutes: one step and one test of each of {seeds * len(sides)} runs take about "
            f"{_minutes(seeds * (step + around))}, and {_minutes(max(seconds, 0.0))} are left after compiling; take fewer "
            "--seeds, a smaller --input, --batch or --limit, or more minutes"
        )
    return Plan(1, steps), seeds * (steps * step + around)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"
