"""Pictures of the recorded runs, for `python -m benchmarks.plots`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.convergence import words
from benchmarks.convergence.comparisons import found
from benchmarks.convergence.experiments import NOISES, ONE_EACH, SETTINGS, SIDES, WHITENING_LAMS
from benchmarks.convergence.inputs import CONTRASTS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.summary import Results, needs
from benchmarks.convergence.words import title_of

__all__ = ["draw"]

# Okabe and Ito's palette, and a marker each.
STYLES = {
    "plain": ("#0072B2", "s", "plain"),
    "tract": ("#D55E00", "o", "TrAct"),
    "tract-dataset": ("#009E73", "^", "gradient of whitening"),
    "whitened": ("#CC79A7", "D", "gradient and start"),
    "whitened-start": ("#999999", "v", "start alone"),
    "zca": ("#000000", "s", "ZCA-whitened images"),
}


def draw(results: Results, folder: Path) -> None:
    """Every picture that there are runs for, as PNG files."""
    for name, panels in PICTURES.items():
        if drawn := panels(results):
            drawn.savefig(folder / f"convergence_{results.size.name}_{name}.png")


def speedup(results: Results) -> Figure | None:
    """Final accuracy against the budget of epochs; a dot for each seed, a line through the means."""
    budgets = results.size.budgets
    settings = [setting for setting in SETTINGS if _pairs(results, setting, budgets[0])]
    if not settings:
        return None
    figure, panels = _panels(len(settings), "final accuracy against the epochs of a training")
    for axes, setting in zip(panels, settings, strict=True):
        for side in SIDES:
            found = [results.of(Run(*setting, budget, side, 0)) for budget in budgets]
            _line(axes, side, budgets, [[result.accuracy for result in cell] for cell in found])
        axes.set_xscale("log", base=2)
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.minorticks_off()
        axes.set_xlabel("epochs")
        axes.set_title(title_of(results, *setting), loc="left", fontsize=10)
    return _finish(figure, panels)


def lam(results: Results) -> Figure | None:
    """Final accuracy against ``lam``, the plain one as a line."""
    budget = results.size.budgets[0]
    settings = [setting for setting in ONE_EACH if _lams(results, setting) > 1]
    if not settings:
        return None
    figure, panels = _panels(len(settings), f"final accuracy against lam, {budget} epochs")
    for axes, setting in zip(panels, settings, strict=True):
        plain = [100 * result.accuracy for result in results.of(Run(*setting, budget, "plain", 0))]
        axes.axhline(statistics.fmean(plain), color=STYLES["plain"][0], label="plain")
        axes.axhspan(min(plain), max(plain), color=STYLES["plain"][0], alpha=0.12, linewidth=0)
        run = Run(*setting, budget, "tract", 0)
        found = {value: results.of(dataclasses.replace(run, lam=value)) for value in results.size.lams}
        done = {value: [result.accuracy for result in cell] for value, cell in found.items() if cell}
        _line(axes, "tract", list(done), list(done.values()))
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(done), [f"{value:g}" for value in done], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel("lam")
        axes.set_title(title_of(results, *setting), loc="left", fontsize=10)
    return _finish(figure, panels)


def contrast(results: Results) -> Figure | None:
    """Accuracy of the test images of each planted contrast."""
    budget = results.size.budgets[0]
    kinds = [
        (setting, noise)
        for setting in ONE_EACH
        for noise in NOISES
        if results.pairs(Run(*setting, budget, "tract", 0, inputs="contrast", noise=noise))
    ]
    if not kinds:
        return None
    figure, panels = _panels(len(kinds), f"accuracy by planted contrast, {budget} epochs")
    for axes, (setting, noise) in zip(panels, kinds, strict=True):
        for side in SIDES:
            found = results.of(Run(*setting, budget, side, 0, inputs="contrast", noise=noise))
            _line(axes, side, CONTRASTS, [[r.by_contrast[place] for r in found] for place in range(len(CONTRASTS))])
        axes.set_xlabel("contrast of the test image")
        axes.set_title(f"{title_of(results, *setting)}, noise {noise:g}", loc="left", fontsize=10)
    return _finish(figure, panels)


def whitening(results: Results) -> Figure | None:
    """Final accuracy against ``lam`` for the parts of whitening, with plain training and whitened images as lines."""
    budgets = [results.size.budgets[place] for place in (0, -1)]
    runs = [run for run in (Run("resnet", "sgd", budget, "tract-dataset", 0) for budget in budgets) if results.of(run)]
    if not runs:
        return None
    figure, panels = _panels(len(runs), "what the parts of whitening gain", height=4.2)
    for axes, run in zip(panels, runs, strict=True):
        for side, inputs in (("plain", Run.inputs), ("zca", "zca")):
            found = [100 * r.accuracy for r in results.of(dataclasses.replace(run, method="plain", inputs=inputs))]
            if found:
                axes.axhline(statistics.fmean(found), color=STYLES[side][0], label=STYLES[side][2])
                axes.axhspan(min(found), max(found), color=STYLES[side][0], alpha=0.12, linewidth=0)
        for side in ("tract", "tract-dataset", "whitened", "whitened-start"):
            cells = {value: results.of(dataclasses.replace(run, method=side, lam=value)) for value in WHITENING_LAMS}
            done = {value: [result.accuracy for result in cell] for value, cell in cells.items() if cell}
            if done:
                _line(axes, side, list(done), list(done.values()))
        axes.set_xscale("log")
        axes.set_xlim(min(WHITENING_LAMS) / 1.5, max(WHITENING_LAMS) * 1.5)
        axes.set_xlabel("lam")
        axes.set_title(f"{title_of(results, run.network, run.optimizer)}, {run.epochs} epochs", loc="left", fontsize=10)
    return _finish(figure, panels, below=True)


def time(results: Results) -> Figure | None:
    """Final accuracy against the processor time of a whole training; a dot for each seed, a line through the means."""
    settings = [(setting, rows) for setting in SETTINGS if (rows := needs(results, *setting))]
    if not settings:
        return None
    figure, panels = _panels(len(settings), "final accuracy against the time of a training")
    for axes, (setting, rows) in zip(panels, settings, strict=True):
        for side in SIDES:
            places = [need.epochs * (need.tract_seconds if side == "tract" else need.plain_seconds) for need in rows]
            _line(axes, side, places, [need.tract if side == "tract" else need.plain for need in rows])
        axes.set_xscale("log", base=2)
        ticks = [need.epochs * need.plain_seconds for need in rows]
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("seconds of one processor core" if not _on_gpu(results) else "seconds")
        axes.set_title(title_of(results, *setting), loc="left", fontsize=10)
    return _finish(figure, panels)


def _on_gpu(results: Results) -> bool:
    return any("gpu" in result.environment for result in results)


def differences(question: str, title: str) -> Callable[[Results], Figure | None]:
    """A picture of all comparisons of a question: a dot for each seed, and the mean."""

    def drawn(results: Results) -> Figure | None:
        items = found(question, [results])
        if not items:
            return None
        figure = Figure(figsize=(7.5, 1.3 + 0.27 * len(items)), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=0.8)
        for row, item in enumerate(items):
            before, after = words.accuracies(item.pairs)
            values = [100 * (b - a) for a, b in zip(before, after, strict=True)]
            color = STYLES["tract" if words.is_clear(item.pairs) else "whitened-start"][0]
            axes.plot(values, [row] * len(values), "o", color=color, markersize=3, alpha=0.6)
            axes.plot([statistics.fmean(values)], [row], "D" if len(values) > 1 else "o", color=color, markersize=5)
        names = [f"{item.network}: {item.comparison.title.replace('`', '')}" for item in items]
        axes.set_yticks(range(len(items)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("points over plain training, in colour where clear")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(alpha=0.3)
        return figure

    return drawn


PICTURES: dict[str, Callable[[Results], Figure | None]] = {
    "speedup": speedup,
    "time": time,
    "lambda": lam,
    "contrast": contrast,
    "inputs": differences("inputs", "What TrAct gains by input and augmentation"),
    "ablations": differences("ablations", "What else could be done to a first layer"),
    "whitening": whitening,
    "harm": differences("harm", "Parts of a training, habits, batches"),
    "many": differences("many", "What TrAct gains by architecture"),
    "vit": differences("vit", "What TrAct gains in the vision transformer"),
    "rates": differences("rates", "What TrAct gains by learning rate"),
}


def _lams(results: Results, setting: tuple[str, str]) -> int:
    run = Run(*setting, results.size.budgets[0], "tract", 0)
    return sum(bool(results.pairs(dataclasses.replace(run, lam=value))) for value in results.size.lams)


def _pairs(results: Results, setting: tuple[str, str], budget: int) -> object:
    return results.pairs(Run(*setting, budget, "tract", 0))


def _line(axes: Axes, side: str, places: Sequence[float], accuracies: Sequence[Sequence[float]]) -> None:
    """A dot for each seed and a line through the means, in percent, where anything was run."""
    color, marker, label = STYLES[side]
    found = {place: [100 * v for v in values] for place, values in zip(places, accuracies, strict=True) if values}
    for place, values in found.items():
        axes.plot([place] * len(values), values, marker, color=color, markersize=3, alpha=0.5)
    means = [statistics.fmean(values) for values in found.values()]
    axes.plot(list(found), means, color=color, marker=marker, markersize=5, label=label)


def _panels(count: int, title: str, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.2 + 3.4 * count, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title[0].upper() + title[1:], x=0.01, ha="left")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _finish(figure: Figure, panels: Sequence[Axes], *, below: bool = False) -> Figure:
    panels[0].set_ylabel("test accuracy, %")
    if below:
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    else:
        panels[0].legend(frameon=False, loc="best")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure
