"""What a pair of runs says: who ends ahead, by how much more than chance, and how early."""

import math
from dataclasses import dataclass

from torch import Tensor

from tract_fx.tools.demo.training import Run
from tract_fx.tools.training.sides import PLAIN, TRACT


@dataclass(frozen=True)
class Comparison:
    """A plain run and a TrAct run of one network.

    Attributes:
        difference: final test accuracy of TrAct minus that of plain, as a share.
        noise: two standard errors of that difference, from the finite number of test images. The scatter between
            seeds is not in it: one run per side cannot show that.
        winner: `plain`, `TrAct`, or None when the difference is within the noise.
        reached: first epoch, counted from 1, at which TrAct has plain's final accuracy; None if it never does.
        diverged: the sides whose training loss ended infinite or not a number.
    """

    difference: float
    noise: float
    winner: str | None
    reached: int | None
    diverged: tuple[str, ...]


def compare(plain: Run, tract: Run) -> Comparison:
    """Compare two runs that were tested on the same images."""
    difference, noise = paired_difference(plain.correct, tract.correct)
    goal = plain.epochs[-1].test_accuracy
    reached = (number for number, epoch in enumerate(tract.epochs, 1) if epoch.test_accuracy >= goal)
    return Comparison(
        difference=difference,
        noise=noise,
        winner=None if abs(difference) <= noise else (TRACT if difference > 0 else PLAIN),
        reached=next(reached, None),
        diverged=tuple(
            name for name, run in ((PLAIN, plain), (TRACT, tract)) if not math.isfinite(run.epochs[-1].train_loss)
        ),
    )


def paired_difference(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Mean of `second - first` and two standard errors of it, for bool outcomes `(images,)` on the same images.

    Pairing matters: most images are right or wrong on both sides, and these carry no noise.
    """
    change = second.double() - first.double()
    mean = change.mean().item()
    return mean, 2 * (change.square().mean().item() - mean**2) ** 0.5 / len(change) ** 0.5


def verdict(title: str, comparison: Comparison, epochs: int) -> str:
    """One sentence that says what happened, whichever side won.

    Args:
        title: name of the network.
        comparison: of its two runs.
        epochs: how many each side trained.
    """
    points, noise = 100 * abs(comparison.difference), 100 * comparison.noise
    if comparison.diverged:
        return f"{title}: the training loss of {' and '.join(comparison.diverged)} is no longer finite; no comparison."
    if comparison.difference == comparison.noise == 0:
        outcome = "a tie, both classify the same images right"
    elif comparison.winner is None:
        outcome = f"a tie, {points:.1f} points apart with a noise of ±{noise:.1f}"
    else:
        outcome = f"{comparison.winner} ends {points:.1f} points ahead, beyond the noise of ±{noise:.1f}"
    return f"{title}: {outcome}; {_speed(comparison.reached, epochs)}."


def _speed(reached: int | None, epochs: int) -> str:
    if reached is None:
        return f"TrAct does not reach plain's final accuracy in {epochs} epochs"
    return f"TrAct first reaches plain's final accuracy in epoch {reached} of {epochs}"
