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

__all__ = [
    "RESULTS",
    "Need",
    "Result",
    "Results",
    "accuracy_after",
    "all_results",
    "best_known",
    "epochs_to_reach",
    "load_results",
    "mean_and_deviation",
    "needs",
]

RESULTS = Path(__file__).parents[1] / "results" / "convergence"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run: which one.
        accuracy: share of the test images that the trained network gets right.
        by_contrast: the same for each planted contrast, empty where none was planted.
        epoch_seconds: the fastest of its epochs but the first, which may compile: processor time on a CPU, whose clock
            would also count what else ran there, the clock on a GPU. The fastest, because what shares caches and memory
            with a run makes epochs slower and never faster. None for a single epoch.
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


def all_results() -> list[Results]:
    """Of every size that there is anything of."""
    return [results for results in map(load_results, SIZES) if results]


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
        min(later) if later else None,
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


def accuracy_after(epochs: float, budgets: Sequence[int], accuracies: Sequence[float]) -> float:
    """Accuracy of a training of so many epochs, linear in their logarithm; not a number below the smallest budget."""
    for low, high, below, above in zip(budgets, budgets[1:], accuracies, accuracies[1:], strict=False):
        if low <= epochs <= high:
            return below + (above - below) * math.log(epochs / low) / math.log(high / low)
    return math.nan


@dataclasses.dataclass(frozen=True)
class Need:
    """What TrAct needs for plain training's accuracy at a budget, seed by seed.

    Attributes:
        epochs: the plain budget.
        pairs: plain and TrAct's result at that budget for each seed.
        epochs_needed: of TrAct, see `epochs_to_reach`.
        at_most: for each seed, whether ``epochs_needed`` is only a bound.
        in_time: accuracies of TrAct in the time of the plain training, see `accuracy_after`.
        plain_seconds, tract_seconds: of an epoch, over all budgets and seeds.
    """

    epochs: int
    pairs: tuple[tuple[Result, Result], ...]
    epochs_needed: tuple[float, ...]
    at_most: tuple[bool, ...]
    in_time: tuple[float, ...]
    plain_seconds: float
    tract_seconds: float

    @property
    def ratio(self) -> float:
        """Time of an epoch with TrAct as a share of a plain one."""
        return self.tract_seconds / self.plain_seconds

    @property
    def is_bound(self) -> bool:
        """Whether no seed has a smaller budget with TrAct that is not enough: what TrAct needs is not known then."""
        return all(self.at_most) and all(epochs == self.epochs for epochs in self.epochs_needed)

    @property
    def plain(self) -> tuple[float, ...]:
        """Final accuracies of plain training."""
        return tuple(plain.accuracy for plain, _ in self.pairs)

    @property
    def tract(self) -> tuple[float, ...]:
        """Final accuracies of TrAct."""
        return tuple(tract.accuracy for _, tract in self.pairs)


def needs(results: Results, network: str, optimizer: str) -> list[Need]:
    """For each budget of a setting that both sides were trained with; a seed is compared over the budgets that it has."""
    budgets = results.size.budgets
    pairs = {budget: results.pairs(Run(network, optimizer, budget, "tract", 0)) for budget in budgets}
    if not any(pairs.values()):
        return []
    seconds = _seconds([pair for found in pairs.values() for pair in found])
    curves: dict[int, dict[int, float]] = {}
    for budget, found in pairs.items():
        for _, tract in found:
            curves.setdefault(tract.run.seed, {})[budget] = tract.accuracy
    return [_need(budget, found, curves, seconds) for budget, found in pairs.items() if found]


def _seconds(pairs: Sequence[tuple[Result, Result]]) -> tuple[float, float]:
    """Of an epoch of each side: the fastest plain one, and that times the median ratio of pairs on one processor.

    Runs of a pair follow each other, so that what else is going on concerns both; it may be gone in the next pair.
    """
    alike = [pair for pair in pairs if len({result.environment.get("cpu") for result in pair}) == 1] or pairs
    plain = min(plain.epoch_seconds for plain, _ in alike)
    return plain, plain * statistics.median(tract.epoch_seconds / plain.epoch_seconds for plain, tract in alike)


def best_known(found: Sequence[Need]) -> Need | None:
    """That of the largest budget with three seeds, or with as many as there are."""
    seeds = min(3, max((len(need.pairs) for need in found), default=0))
    return max((need for need in found if len(need.pairs) >= seeds), key=lambda need: need.epochs, default=None)


def _need(
    budget: int,
    pairs: Sequence[tuple[Result, Result]],
    curves: Mapping[int, Mapping[int, float]],
    seconds: tuple[float, float],
) -> Need:
    own = [(plain, list(curves[plain.run.seed]), list(curves[plain.run.seed].values())) for plain, _ in pairs]
    needed = [epochs_to_reach(plain.accuracy, *curve) for plain, *curve in own]
    return Need(
        budget,
        tuple(pairs),
        tuple(needed),
        tuple(epochs == budgets[0] for epochs, (_, budgets, _) in zip(needed, own, strict=True)),
        tuple(accuracy_after(budget * seconds[0] / seconds[1], *curve) for _, *curve in own),
        *seconds,
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and sample standard deviation (not a number for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
