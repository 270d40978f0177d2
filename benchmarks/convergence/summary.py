"""What the recorded runs say: accuracies with their spread over seeds, and epochs that TrAct needs.

Nothing here knows how tables or pictures look.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import SIZES
from tract_fx.tools.training.journal import read

__all__ = ["RESULTS", "Need", "Result", "Results", "epochs_to_reach", "load_results", "mean_and_deviation", "needs"]

RESULTS = Path(__file__).parents[1] / "results" / "convergence"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run: which one.
        accuracy: share of the test images that the trained network gets right.
        by_contrast: the same for each planted contrast, empty where none was planted.
        epoch_seconds: median over its epochs but the first, which may compile: processor time on a CPU, whose clock
            would also count what else ran there, the clock on a GPU. None for a single epoch.
        images: what the file says of them.
        environment: versions and hardware.
    """

    run: Run
    accuracy: float
    by_contrast: tuple[float, ...]
    epoch_seconds: float | None
    images: Mapping[str, Any]
    environment: Mapping[str, Any]


class Results:
    """All finished runs of a size."""

    def __init__(self, size: str, results: Iterable[Result]) -> None:
        self.size = SIZES[size]
        self._by_run = {result.run: result for result in results}

    def __bool__(self) -> bool:
        return bool(self._by_run)

    def __iter__(self) -> Any:
        return iter(self._by_run.values())

    @property
    def seeds(self) -> list[int]:
        """Of all runs there are."""
        return sorted({run.seed for run in self._by_run})

    def of(self, run: Run) -> list[Result]:
        """The run with every seed that it was done with."""
        runs = (dataclasses.replace(run, seed=seed) for seed in self.seeds)
        return [self._by_run[run] for run in runs if run in self._by_run]

    def pairs(self, run: Run) -> list[tuple[Result, Result]]:
        """The run trained plainly and as it is, for the seeds that have both."""
        return self.matched(dataclasses.replace(run, method="plain", lam=Run.lam), run)

    def matched(self, *runs: Run) -> list[tuple[Result, ...]]:
        """Several runs, for the seeds that have all of them."""
        found = [{result.run.seed: result for result in self.of(run)} for run in runs]
        seeds = sorted(set.intersection(*(set(results) for results in found)))
        return [tuple(results[seed] for results in found) for seed in seeds]


def load_results(size: str, folder: Path = RESULTS) -> Results:
    """Read all finished runs of a size; a run that was only tried out for some steps is none."""
    found = (result_of(read(path)) for path in sorted((folder / size).glob("*.jsonl")))
    return Results(size, [result for result in found if result is not None])


def result_of(lines: Sequence[Mapping[str, Any]]) -> Result | None:
    """What a run's file says, None while it is not finished."""
    if not lines[-1].get("finished") or lines[0]["steps"] is not None:
        return None
    first, *epochs, _ = lines
    clock = "seconds" if "gpu" in first["environment"] else "processor_seconds"
    later = [line[clock] for line in epochs[1:]]
    return Result(
        Run(**first["run"]),
        epochs[-1]["accuracy"],
        tuple(epochs[-1].get("by_contrast", ())),
        statistics.median(later) if later else None,
        first["images"],
        first["environment"],
    )


def epochs_to_reach(target: float, budgets: Sequence[int], accuracies: Sequence[float]) -> float:
    """Budget with which an accuracy is reached.

    Between two budgets, accuracy is taken to be linear in the logarithm of the budget.

    Returns:
        The epochs; the smallest budget where that is enough already (the true number is not known, it is at most
        this), infinity where the largest is not enough.
    """
    if accuracies[0] >= target:
        return budgets[0]
    for low, high, below, above in zip(budgets, budgets[1:], accuracies, accuracies[1:], strict=False):
        if above >= target:
            share = (target - below) / (above - below)
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return math.inf


@dataclasses.dataclass(frozen=True)
class Need:
    """What TrAct needs for plain training's accuracy at a budget, seed by seed.

    Attributes:
        epochs: the plain budget.
        plain, tract: final accuracies at that budget, one for each seed.
        epochs_needed: of TrAct, see `epochs_to_reach`.
        at_most: for each seed, whether ``epochs_needed`` is only a bound.
        seconds: time of an epoch with TrAct as a share of a plain one.
    """

    epochs: int
    plain: tuple[float, ...]
    tract: tuple[float, ...]
    epochs_needed: tuple[float, ...]
    at_most: tuple[bool, ...]
    seconds: float


def needs(results: Results, network: str, optimizer: str) -> list[Need]:
    """For each budget of a setting; empty where a budget was not run."""
    budgets = results.size.budgets
    plain, tract = ([Run(network, optimizer, budget, method, 0) for budget in budgets] for method in ("plain", "tract"))
    seeds = results.matched(*plain, *tract)
    rows = []
    for place, budget in enumerate(budgets) if seeds else ():
        targets = [found[place].accuracy for found in seeds]
        curves = [[result.accuracy for result in found[len(budgets) :]] for found in seeds]
        needed = [epochs_to_reach(target, budgets, curve) for target, curve in zip(targets, curves, strict=True)]
        rows.append(
            Need(
                budget,
                tuple(targets),
                tuple(curve[place] for curve in curves),
                tuple(needed),
                tuple(epochs == budgets[0] for epochs in needed),
                statistics.median(
                    tract.epoch_seconds / plain.epoch_seconds
                    for found in seeds
                    for plain, tract in zip(found[: len(budgets)], found[len(budgets) :], strict=True)
                ),
            )
        )
    return rows


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation (not a number for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
