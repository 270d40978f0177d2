"""What the comparisons at run time cost: training steps with them and without.

With TrAct, each call of a compiled graph compares the roles of its inputs with those that it was compiled for and remembers
its outputs, and its backward pass is compared with the gradients that arrive at rewritten weights. Steps of both sides
alternate in one process, in either order, so that both see the same machine. The report is the median of the differences,
that of the ratios with the 20 % and 80 % quantiles, and the ratio of the fastest steps, which other programs disturb least.
Small batches make the differences visible.

    OMP_NUM_THREADS=1 python -m benchmarks.run_time_checks --out benchmarks/results/run_time_checks.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.lines import emit
from benchmarks.models import WORKLOADS
from benchmarks.sides import Precision, training_step
from benchmarks.throughput import timed
from tract_fx.environment import environment

WARM_UP = 5
SIDE = "compiled tract-fx"


def main() -> None:
    """Measure the networks asked for and append one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help="(default: resnet18-cifar vit-cifar)")
    add("--rounds", type=int, default=61, help="steps of each side (default: 61)")
    add("--batch", type=int, default=4, help="images in a batch (default: 4)")
    add("--out", type=Path, help="file to which JSON lines are appended")
    arguments = parser.parse_args()
    for name in arguments.workloads or ("resnet18-cifar", "vit-cifar"):
        emit(measure(name, arguments.rounds, arguments.batch), arguments.out)


def measure(name: str, rounds: int, batch: int) -> dict[str, Any]:
    """Times of steps with the comparisons, and their differences from those without."""
    workload = WORKLOADS[name]
    torch.manual_seed(0)
    model, data = workload.make(), workload.data("cpu", batch)
    compared = training_step(SIDE, model, workload.first, *data, Precision())
    plain = training_step(SIDE, model, workload.first, *data, Precision())
    with _without_comparisons():
        plain()
    for _ in range(WARM_UP):
        compared()
        plain()
    pairs = [_pair(compared, plain, swapped=bool(number % 2)) for number in range(rounds)]
    ratios = [first / second for first, second in pairs]
    low, *_, high = statistics.quantiles(ratios, n=5)
    fastest, fastest_plain = (min(side) for side in zip(*pairs, strict=True))
    return {
        "benchmark": "run_time_checks",
        "workload": name,
        "batch": batch,
        "rounds": rounds,
        "seconds": statistics.median(second for _, second in pairs),
        "difference_seconds": statistics.median(first - second for first, second in pairs),
        "ratio": statistics.median(ratios),
        "ratio_20_percent": low,
        "ratio_80_percent": high,
        "fastest_ratio": fastest / fastest_plain,
        "threads": torch.get_num_threads(),
        **environment("cpu"),
    }


def _pair(compared: Callable[[], Any], plain: Callable[[], Any], *, swapped: bool) -> tuple[float, float]:
    """Seconds of a step of each side, which come in either order: the second one finds its memory warm."""
    if swapped:
        second = timed(plain, "cpu")
        return timed(compared, "cpu"), second
    return timed(compared, "cpu"), timed(plain, "cpu")


@contextlib.contextmanager
def _without_comparisons() -> Iterator[None]:
    """Graphs that are compiled inside compare nothing when they run."""
    with (
        mock.patch("tract_fx.compile.inputs.guard_roles"),
        mock.patch("tract_fx.backend.watch"),
        mock.patch("tract_fx.backend.watching", lambda call: call),
        mock.patch("tract_fx.backend.recording_outputs", lambda call, *_: call),
    ):
        yield


if __name__ == "__main__":
    main()
