"""What of the planned runs there is, and what not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from benchmarks.convergence.experiments import EXPERIMENTS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.summary import Results
from benchmarks.markdown import table

__all__ = ["SEEDS", "coverage"]

SEEDS = 3
NOT_OF_ALL_IMAGES = "speedup"
"""Of the sizes with all images, only this experiment is planned on a CPU."""


def coverage(everything: Iterable[Results]) -> str:
    """A row for each experiment and size: trainings by the number of their seeds."""
    rows = []
    for results in everything:
        for name, experiment in EXPERIMENTS.items():
            if results.size.name != "small" and name != NOT_OF_ALL_IMAGES:
                continue
            runs = list(dict.fromkeys(experiment.runs(results.size, 0)))
            seeds = [min(SEEDS, len(results.of(run))) for run in runs]
            counts = Counter(seeds)
            missing = [run for run, count in zip(runs, seeds, strict=True) if not count]
            rows.append(
                (
                    f"`{name}`",
                    results.size.name,
                    len(runs),
                    counts[SEEDS],
                    sum(counts[count] for count in range(1, SEEDS)),
                    counts[0],
                    _networks(missing),
                )
            )
    return table(("experiment", "size", "trainings", "three seeds", "fewer", "not run", "of which"), rows)


def _networks(runs: Iterable[Run]) -> str:
    counts = Counter(f"{run.network} {run.optimizer}" for run in runs)
    return (
        ", ".join(f"{count} {name}" for name, count in counts.items()) if len(counts) < 4 else f"{len(counts)} networks"
    )
