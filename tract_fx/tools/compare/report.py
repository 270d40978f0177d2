"""What a comparison says at its end: a table, what a step costs, a sentence, and `results.json`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tract_fx.tools.compare.plan import Plan
from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.compare.verdict import Curve, Difference, final_difference, sentences, step_seconds
from tract_fx.tools.files import write_record
from tract_fx.tools.images.arrays import ImageSet
from tract_fx.tools.training.console import rewritten, say
from tract_fx.tools.training.sides import PLAIN

__all__ = ["Findings", "print_findings", "write_results"]

MAX_ROWS = 12


@dataclass(frozen=True)
class Findings:
    """Everything that the runs gave.

    Attributes:
        model, images: their names.
        test_images: how many.
        sides: names, plain first.
        seeds: that were asked for.
        plan: length of a run.
        curves: of every side and seed, some of them empty if it was stopped.
        matches: the layers that TrAct rewrote, each as a dictionary.
        stopped: what ended the comparison early, None if nothing did.
    """

    model: str
    images: str
    test_images: int
    sides: tuple[str, ...]
    seeds: tuple[int, ...]
    plan: Plan
    curves: tuple[Curve, ...]
    matches: tuple[dict[str, Any], ...]
    stopped: str | None

    def of(self, side: str) -> list[Curve]:
        """The runs of a side that are compared."""
        return [curve for curve in self.curves if curve.side == side and curve.seed in self.compared]

    @cached_property
    def finished(self) -> tuple[int, ...]:
        """Seeds with which every side is finished."""
        return tuple(seed for seed in self.seeds if self._epochs(seed) == self.plan.epochs)

    @cached_property
    def compared(self) -> tuple[int, ...]:
        """The finished seeds; while there is none, the one that is farthest."""
        return self.finished or (max(self.seeds, key=self._epochs),)

    @cached_property
    def epochs(self) -> int:
        """Epochs that every side has with every seed that is compared."""
        return min(map(self._epochs, self.compared))

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Of the finished seeds, one for each side but the plain one."""
        if not self.finished:
            return ()
        ends = {side: [curve.points[-1].accuracy for curve in self.of(side)] for side in self.sides}
        return tuple(final_difference(side, ends[PLAIN], ends[side], self.test_images) for side in self.sides[1:])

    @cached_property
    def sentences(self) -> list[str]:
        """What can be said, no more."""
        if self.finished:
            lost = [curve.side for curve in self.curves if curve.points and not math.isfinite(curve.points[-1].loss)]
            return sentences(self.differences, list(dict.fromkeys(lost)))
        return [
            f"No seed is finished: after {self.epochs} of {self.plan.epochs} epochs nothing can be said of the end, where "
            "the learning rate is zero."
        ]

    def accuracies(self, side: str, epoch: int) -> list[float]:
        """Test accuracies of a side after an epoch, one for each seed that is compared."""
        return [curve.points[epoch - 1].accuracy for curve in self.of(side)]

    def _epochs(self, seed: int) -> int:
        return min(len(curve.points) for curve in self.curves if curve.seed == seed)


def print_findings(console: Console, findings: Findings) -> None:
    """Print accuracies, what was rewritten, the cost of a step, and the sentence."""
    if findings.epochs:
        console.print(_table(findings))
    say(console, *rewritten(findings.matches), _cost(findings), *_progress(findings), *findings.sentences)


def _table(findings: Findings) -> Table:
    seeds = len(findings.compared)
    spread = f", mean ± standard deviation of {seeds} seeds" if seeds > 1 else f", seed {findings.compared[0]}"
    table = Table(title=f"{findings.model}: test accuracy, %{spread}")
    for heading in ("epoch", *findings.sides, *(f"{side} - {PLAIN}" for side in findings.sides[1:])):
        table.add_column(heading, justify="right")
    for epoch in _shown(findings.epochs):
        found = {side: findings.accuracies(side, epoch) for side in findings.sides}
        gains = [[b - a for a, b in zip(found[PLAIN], found[side], strict=True)] for side in findings.sides[1:]]
        table.add_row(
            str(epoch), *(_spread(values) for values in found.values()), *(_spread(gain, "+") for gain in gains)
        )
    return table


def _shown(epochs: int) -> list[int]:
    """At most `MAX_ROWS` of the epochs, the last one among them."""
    every = math.ceil(epochs / MAX_ROWS)
    return list(range(epochs, 0, -every))[::-1]


def _spread(values: Sequence[float], sign: str = "") -> str:
    mean = f"{100 * statistics.fmean(values):{sign}.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _cost(findings: Findings) -> str:
    plain, *others = ((side, step_seconds(findings.curves, side)) for side in findings.sides)
    parts = (f"{1000 * seconds:.1f} ms with {side} ({seconds / plain[1]:.2f} times)" for side, seconds in others)
    return f"A training step took {1000 * plain[1]:.1f} ms with plain training and {', '.join(parts)}."


def _progress(findings: Findings) -> list[str]:
    if findings.stopped is None:
        return []
    return [
        f"Stopped by {findings.stopped} with {len(findings.finished)} of {len(findings.seeds)} seeds finished; the same "
        "command goes on."
    ]


def write_results(path: Path, settings: CompareSettings, images: ImageSet, findings: Findings) -> None:
    """Write settings and every number as JSON; the files of the runs say where each was trained."""
    record = {
        "settings": {**asdict(settings), "data": str(settings.data), "out": str(settings.out)},
        "images": {
            "name": images.name,
            "classes": len(images.classes),
            "train": len(images.train_images),
            "test": len(images.test_images),
            "notices": images.notices,
        },
        "plan": asdict(findings.plan),
        "stopped": findings.stopped,
        "matches": findings.matches,
        "runs": [asdict(curve) for curve in findings.curves if curve.points],
        "step_seconds": {side: step_seconds(findings.curves, side) for side in findings.sides},
        "differences": [asdict(difference) for difference in findings.differences],
        "sentences": findings.sentences,
    }
    write_record(path, record)
