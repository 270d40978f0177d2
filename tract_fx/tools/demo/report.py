"""What the demo says at the end: a table and a verdict per network, and `results.json`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tract_fx.environment import environment
from tract_fx.tools.demo.compare import compare, verdict
from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.demo.settings import DemoSettings
from tract_fx.tools.demo.training import Run
from tract_fx.tools.files import write_record
from tract_fx.tools.images.arrays import ImageSet
from tract_fx.tools.training.console import rewritten, say
from tract_fx.tools.training.sides import PLAIN, TRACT


def print_pair(console: Console, title: str, pair: Pair) -> None:
    """Print accuracy per epoch for both sides, what was rewritten, the time it took and the verdict."""
    console.print(accuracy_table(title, pair))
    layers = rewritten(pair.matches) or ["TrAct rewrote no layer."]
    say(console, *layers, _timing(pair), verdict(title, compare(**_sides(pair)), len(pair.runs[PLAIN].epochs)))
    console.print()


def accuracy_table(title: str, pair: Pair) -> Table:
    """Test accuracy in per cent after each epoch, with the difference in points."""
    table = Table(title=f"{title}: test accuracy, %")
    for heading in ("epoch", PLAIN, TRACT, "difference"):
        table.add_column(heading, justify="right")
    rows = zip(pair.runs[PLAIN].epochs, pair.runs[TRACT].epochs, strict=True)
    for number, (plain, tract) in enumerate(rows, 1):
        accuracies = 100 * plain.test_accuracy, 100 * tract.test_accuracy
        table.add_row(
            str(number), f"{accuracies[0]:.1f}", f"{accuracies[1]:.1f}", f"{accuracies[1] - accuracies[0]:+.1f}"
        )
    return table


def _timing(pair: Pair) -> str:
    return "; ".join(
        f"{side}: first step {run.first_step_seconds:.1f} s with compilation, then {run.epoch_seconds:.2f} s per epoch"
        for side, run in pair.runs.items()
    )


def _sides(pair: Pair) -> dict[str, Run]:
    return {"plain": pair.runs[PLAIN], "tract": pair.runs[TRACT]}


def write_results(
    path: Path, settings: DemoSettings, images: ImageSet, pairs: Mapping[str, Pair], seconds: float
) -> None:
    """Write settings, environment and every number of the run as JSON.

    Args:
        path: file to write.
        settings: what was asked for, with `input` and `device` as used.
        images: what was trained on.
        pairs: runs by name in `models.RECIPES`.
        seconds: wall time of the whole demo.
    """
    record = {
        "settings": {
            **asdict(settings),
            "data": str(settings.data) if settings.data else None,
            "out": str(settings.out),
        },
        "environment": environment(settings.device or "cpu"),
        "images": _image_record(images),
        "seconds": seconds,
        "models": {name: _pair_record(pair) for name, pair in pairs.items()},
    }
    write_record(path, record)


def _image_record(images: ImageSet) -> dict[str, Any]:
    return {
        "name": images.name,
        "classes": len(images.classes),
        "channels": images.channels,
        "train": len(images.train_images),
        "test": len(images.test_images),
        "notices": images.notices,
    }


def _pair_record(pair: Pair) -> dict[str, Any]:
    return {
        "matches": pair.matches,
        "comparison": asdict(compare(**_sides(pair))),
        "runs": {side: _run_record(run) for side, run in pair.runs.items()},
    }


def _run_record(run: Run) -> dict[str, Any]:
    return {
        "epochs": [asdict(epoch) for epoch in run.epochs],
        "first_step_seconds": run.first_step_seconds,
        "epoch_seconds": run.epoch_seconds,
    }
