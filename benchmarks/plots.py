"""Pictures of the committed results, beside them.

python -m benchmarks.plots

Drawn from the same files as the tables: what a training step costs more, the operator alone, and whether training is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.convergence.figures import draw as draw_convergence
from benchmarks.convergence.summary import all_results
from benchmarks.report import RESULTS, lines

# Okabe and Ito's palette, and a marker each, so that colour is not all that tells the sides apart.
SIDES = {
    "eager torch-tract": ("#999999", "s"),
    "compiled torch-tract": ("#0072B2", "D"),
    "compiled tract-fx": ("#D55E00", "o"),
}
WAYS = {"unfold_float32": ("#0072B2", "unfold + matmul, float32"), "unfold_float64": ("#999999", "the same, float64")}
BAR = 0.38
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def main() -> None:
    """Draw every picture."""
    draw_throughput(lines("throughput.jsonl"), RESULTS / "throughput.png")
    draw_gram([record for record in lines("gram.jsonl") if record["dtype"] == "float32"], RESULTS / "gram.png")
    for results in all_results():
        draw_convergence(results, RESULTS)


def draw_throughput(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What each side adds to the compiled plain step of its round: medians, and lines from 20 % to 80 % quantiles."""
    figure = _figure(9, 1.6 + 0.62 * len(records))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, record in enumerate(records):
        present = [name for name in SIDES if name in record["sides"]]
        for place, name in enumerate(present):
            _range(axes, row + 0.2 * (place - (len(present) - 1) / 2), record["sides"][name], *SIDES[name])
    axes.set_yticks(range(len(records)), [f"{record['workload']}, batch {record['batch']}" for record in records])
    axes.invert_yaxis()
    axes.set_xlabel("added to a compiled plain training step, %")
    axes.set_title("Cost of TrAct in whole training steps", loc="left")
    handles = [
        axes.plot([], [], color=color, marker=marker, linestyle="-", label=name)[0]
        for name, (color, marker) in SIDES.items()
    ]
    axes.legend(handles=handles, frameon=False, loc="upper right")
    _plain(axes, grid="x")
    figure.savefig(path)


def draw_gram(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """How many times as long, and as much memory, patches in memory take as the operator does."""
    figure = _figure(10, 1.8 + 0.5 * len(records))
    time, memory = figure.subplots(1, 2, sharey=True)
    for axes, title in ((time, "time"), (memory, "memory beyond the input")):
        for place, (way, (color, label)) in enumerate(WAYS.items()):
            ratios = [_times(record, way)[title == "time"] for record in records]
            rows = [row + BAR * (place - 0.5) for row in range(len(records))]
            bars = axes.barh(rows, ratios, height=BAR, color=color, label=label)
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8, bbox=LABEL)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel("times that of the operator")
        axes.set_title(title, loc="left")
        axes.margins(x=0.15)
        _plain(axes)
    time.set_yticks(range(len(records)), [record["case"] for record in records])
    time.invert_yaxis()
    time.legend(frameon=False, loc="lower right", fontsize=8)
    figure.savefig(path)


def _times(record: Mapping[str, Any], way: str) -> tuple[float, float]:
    """Ratios of memory and of time."""
    extra = record["extra_bytes"]
    return extra[way] / extra["gram"], record[f"{way}_seconds"][0] / record["gram_seconds"][0]


def _range(axes: Axes, row: float, side: Mapping[str, float], color: str, marker: str) -> None:
    low, middle, high = (100 * (side[key] - 1) for key in ("ratio_20_percent", "ratio", "ratio_80_percent"))
    axes.plot([low, high], [row, row], color=color, linewidth=1.5)
    axes.plot([middle], [row], color=color, marker=marker, markersize=5)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes, grid: str | None = None) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if grid:
        axes.grid(axis=grid, alpha=0.3)


if __name__ == "__main__":
    main()
