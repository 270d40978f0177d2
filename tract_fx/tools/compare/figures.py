"""The picture of a comparison: test accuracy against epochs and against training time."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tract_fx.tools.compare.report import Findings
from tract_fx.tools.training.drawing import PLAIN_LINE, SWEEP_COLOURS, TRACT_LINE, new_figure
from tract_fx.tools.training.sides import PLAIN

__all__ = ["draw_comparison"]


def draw_comparison(findings: Findings, path: Path) -> None:
    """Write the mean over the compared seeds as lines, each seed as a thin one.

    Args:
        findings: of all runs.
        path: PNG file to write.
    """
    figure = new_figure(11, 4.6)
    seeds = len(findings.compared)
    number = f"mean of {seeds} seeds, and each of them thin" if seeds > 1 else f"seed {findings.compared[0]}"
    figure.suptitle(f"{findings.model} on {findings.images}: {number}", fontsize=12)
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    numbers = range(1, findings.epochs + 1)
    for side, style in zip(findings.sides, _styles(findings.sides), strict=True):
        _draw(by_epoch, findings, side, [numbers] * seeds, style)
        _draw(by_time, findings, side, [_elapsed(findings, side, i) for i in range(seeds)], style)
    by_epoch.set(title="by epochs", xlabel="epoch", ylabel="test images classified right, %")
    by_epoch.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    by_time.set(title="by training time, without compilation and tests", xlabel="seconds")
    for axes in (by_epoch, by_time):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path)


def _draw(
    axes: Axes, findings: Findings, side: str, places: Sequence[Sequence[float]], style: dict[str, object]
) -> None:
    curves = [[100 * point.accuracy for point in curve.points[: findings.epochs]] for curve in findings.of(side)]
    if len(curves) > 1:
        for x, y in zip(places, curves, strict=True):
            axes.plot(x, y, **style | {"linewidth": 0.8, "alpha": 0.35}, marker="o", markersize=2)
    mean = [[statistics.fmean(values) for values in zip(*lines, strict=True)] for lines in (places, curves)]
    axes.plot(*mean, **style, marker="o", markersize=3, linewidth=2, label=side)


def _elapsed(findings: Findings, side: str, index: int) -> list[float]:
    """Training seconds of a run up to the end of each epoch."""
    points = findings.of(side)[index].points[: findings.epochs]
    return list(itertools.accumulate(point.seconds for point in points))


def _styles(sides: Sequence[str]) -> list[dict[str, object]]:
    more = itertools.cycle(SWEEP_COLOURS)
    others = [TRACT_LINE, *({**TRACT_LINE, "color": colour} for colour, _ in zip(more, sides[2:], strict=False))]
    return [PLAIN_LINE if side == PLAIN else others.pop(0) for side in sides]
