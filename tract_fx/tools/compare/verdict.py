"""What the runs say: differences of final accuracies, whether the seeds can show them, and what a step costs.

The seeds of both sides share initial weights and batches, so that the test is Student's for paired samples. It speaks of
trainings with other seeds on the same images; what other test images would say is not in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Curve", "Difference", "Point", "final_difference", "sentences", "step_seconds", "t_quantile", "t_test"]

LEVEL = 0.05
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Point:
    """An epoch of a run: mean training loss in nats, share of test images classified right, steps, and their seconds."""

    loss: float
    accuracy: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Curve:
    """A run as far as it went.

    Attributes:
        side: its name.
        seed: of weights and batches.
        points: one for each epoch.
    """

    side: str
    seed: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Difference:
    """Final test accuracy of a side minus that of plain training, as a share, over the seeds that have both.

    Attributes:
        side: its name.
        values: one for each seed.
        mean, deviation: of the values; the sample standard deviation is not a number for one seed.
        interval: of 95 % for the mean.
        p: of the paired t-test, not a number for one seed.
    """

    side: str
    values: tuple[float, ...]
    mean: float
    deviation: float
    interval: tuple[float, float]
    p: float


def final_difference(side: str, plain: Sequence[float], other: Sequence[float], images: int) -> Difference:
    """Compare final accuracies of the same seeds, of one test set of so many images."""
    values = tuple(b - a for a, b in zip(plain, other, strict=True))
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Difference(side, values, mean, math.nan, (math.nan, math.nan), math.nan)
    # Accuracies are multiples of 1/images: seeds whose difference is the same may differ by the rounding of two of them.
    deviation = max(statistics.stdev(values), 1 / (images * math.sqrt(6)))
    error = deviation / math.sqrt(len(values))
    half = t_quantile(LEVEL, len(values) - 1) * error
    return Difference(side, values, mean, deviation, (mean - half, mean + half), t_test(mean / error, len(values) - 1))


def t_test(t: float, freedom: int) -> float:
    """Probability that Student's t is farther from zero than ``t``.

    The finite series of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))


def t_quantile(level: float, freedom: int) -> float:
    """The ``t`` that is exceeded, on either side, with a probability of ``level``."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_test(middle, freedom) > level else (low, middle)
    return low


def step_seconds(curves: Sequence[Curve], side: str) -> float:
    """Median time of a training step of a side, over its epochs and seeds; not a number without any."""
    times = [point.seconds / point.steps for curve in curves if curve.side == side for point in curve.points]
    return statistics.median(times) if times else math.nan


def sentences(differences: Sequence[Difference], diverged: Sequence[str]) -> list[str]:
    """A sentence for each side, whoever is ahead.

    Args:
        differences: of finished runs.
        diverged: names of sides with a run whose loss is no longer finite.
    """
    if diverged:
        return [f"The training loss of {' and '.join(diverged)} is no longer finite: there is nothing to compare."]
    return [_sentence(difference, len(differences)) for difference in differences]


def _sentence(found: Difference, tried: int) -> str:
    seeds = len(found.values)
    place = f"{100 * abs(found.mean):.1f} points {'above' if found.mean >= 0 else 'below'} plain training"
    if seeds == 1:
        return f"{found.side} ends {place} with one seed; how far seeds differ from each other takes more of them."
    low, high = (f"{100 * value:+.1f}" for value in found.interval)
    threshold = LEVEL / tried
    test = f"95 % interval {low} to {high}; paired t-test, p {_probability(found.p)}"
    if tried > 1:
        test += f", where {tried} values of lam need {threshold:.2g}"
    number = NUMBERS[seeds] if seeds < len(NUMBERS) else str(seeds)
    if found.p < threshold:
        return f"{found.side} ends {place}, beyond what {number} seeds differ by ({test})."
    return f"No difference that {number} seeds can show: {found.side} ends {place} on average ({test})."


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
