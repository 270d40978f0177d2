"""Whole training steps: what TrAct adds, for this package and for the authors' module.

Every side has the same weights and images. Steps of all sides alternate in one process, so that all see the same machine,
and the ratio of each to the compiled plain step of its round is taken; the report is the median of the ratios with the
20 % and 80 % quantiles.

    OMP_NUM_THREADS=1 python -m benchmarks.throughput --out benchmarks/results/throughput.jsonl
    python -m benchmarks.throughput resnet50-224 --device cuda --dtype bfloat16 --channels-last
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines import emit
from benchmarks.models import WORKLOADS
from benchmarks.sides import SIDES, Precision, training_step
from tract_fx.environment import environment

BASE = "compiled"
WARM_UP = 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def main() -> None:
    """Measure the networks asked for and append one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)} (default: all)")
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="beside the compiled plain one (default: all)")
    add("--rounds", type=int, default=11, help="steps of each side (default: 11)")
    add("--batch", type=int, help="images in a batch (default: the workload's)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="other than float32: autocast")
    add("--channels-last", action="store_true")
    add(
        "--clock", choices=CLOCKS, default="wall", help="processor: seconds that this process ran, where others run too"
    )
    add("--out", type=Path, help="file to which JSON lines are appended")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.workloads) - set(WORKLOADS)):
        parser.error(f"no workload is called {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    precision = Precision(arguments.dtype, arguments.channels_last)
    for name in arguments.workloads or WORKLOADS:
        sizes = arguments.rounds, arguments.device, arguments.batch
        record = measure(name, arguments.sides, *sizes, precision, arguments.clock)
        emit(record, arguments.out)


def measure(
    name: str,
    sides: Sequence[str],
    rounds: int,
    device: str,
    batch: int | None,
    precision: Precision,
    clock: str = "wall",
) -> dict[str, Any]:
    """Seconds of the steps of all sides, and their ratios to the compiled plain step of the same round."""
    workload = WORKLOADS[name]
    torch.manual_seed(0)
    model = workload.make()
    batch = batch or workload.batch[device]
    data = workload.data(device, batch)
    names = list(dict.fromkeys([BASE, *sides]))
    steps = {side: training_step(side, model, workload.first, *data, precision) for side in names}
    for _ in range(WARM_UP):
        for run in steps.values():
            run()
    seconds = [{side: timed(run, device, clock) for side, run in steps.items()} for _ in range(rounds)]
    return {
        "benchmark": "throughput",
        "workload": name,
        "batch": batch,
        "image": workload.image,
        "device": device,
        "dtype": precision.dtype,
        "channels_last": precision.channels_last,
        "rounds": rounds,
        "clock": clock,
        "load": round(os.getloadavg()[0], 1),
        "sides": {side: summary(seconds, side) for side in names},
        "threads": torch.get_num_threads(),
        **environment(device),
    }


def summary(seconds: Sequence[dict[str, float]], side: str) -> dict[str, float]:
    """Median time of a side, and its ratio to the base of the same round: median, 20 % and 80 % quantile."""
    ratios = [row[side] / row[BASE] for row in seconds]
    low, *_, high = statistics.quantiles(ratios, n=5)
    return {
        "seconds": statistics.median(row[side] for row in seconds),
        "ratio": statistics.median(ratios),
        "ratio_20_percent": low,
        "ratio_80_percent": high,
    }


def timed(run: Callable[[], None], device: str, clock: str = "wall") -> float:
    """Seconds that one call takes, to the last kernel."""
    now = CLOCKS[clock]
    if device == "cuda":
        torch.cuda.synchronize()
    started = now()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - started


if __name__ == "__main__":
    main()
