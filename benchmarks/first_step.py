"""Compile time and peak memory, each side in a fresh process with empty caches.

The first step compiles forward and backward pass and runs them; the compile time is what it takes longer than a later
step. Peak memory is the largest resident set of the process on a CPU, and what the allocator has handed out on a GPU.

    OMP_NUM_THREADS=1 python -m benchmarks.first_step resnet18-224 --out benchmarks/results/first_step.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.lines import emit
from benchmarks.models import WORKLOADS
from benchmarks.sides import SIDES, Precision, training_step
from benchmarks.throughput import timed
from tract_fx.environment import environment

COMPARED = ("compiled", "compiled tract-fx", "compiled torch-tract")
LATER_STEPS = 3


def main() -> None:
    """Measure the networks asked for; the sides take turns, so that a busy minute hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("workloads", nargs="*", choices=[*WORKLOADS, []], default=[], help="default: all")
    add("--repeat", type=int, default=3, help="processes for each side (default: 3)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, help="file to which JSON lines are appended")
    add("--one", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_process(arguments.workloads[0], arguments.one, arguments.device)))
        return
    for name in arguments.workloads or WORKLOADS:
        runs = [{side: fresh(name, side, arguments.device) for side in COMPARED} for _ in range(arguments.repeat)]
        emit(record(name, runs, arguments.device), arguments.out)


def record(name: str, runs: list[dict[str, dict[str, float]]], device: str) -> dict[str, Any]:
    """Medians over the processes of each side."""
    sides = {
        side: {key: statistics.median(run[side][key] for run in runs) for key in runs[0][side]} for side in COMPARED
    }
    return {
        "benchmark": "first_step",
        "workload": name,
        "batch": WORKLOADS[name].batch[device],
        "device": device,
        "repeat": len(runs),
        "sides": sides,
        "compile_ratio": {
            side: statistics.median(run[side]["compile_seconds"] / run[COMPARED[0]]["compile_seconds"] for run in runs)
            for side in COMPARED
        },
        **environment(device),
    }


def fresh(name: str, side: str, device: str) -> dict[str, float]:
    """:func:`one_process` in a process with caches of its own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.first_step", name, "--one", side, "--device", device]
        environment_ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        finished = subprocess.run(command, env=environment_, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def one_process(name: str, side: str, device: str) -> dict[str, float]:
    """Compile seconds, and peak MiB after some steps, of this process."""
    workload = WORKLOADS[name]
    torch.manual_seed(0)
    data = workload.data(device, workload.batch[device])
    run = training_step(side, workload.make(), workload.first, *data, Precision())
    first = timed(run, device)
    later = statistics.median(timed(run, device) for _ in range(LATER_STEPS))
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"compile_seconds": first - later, "step_seconds": later, "peak_mib": peak}


if __name__ == "__main__":
    main()
