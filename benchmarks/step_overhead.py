"""What TrAct adds to a whole training step, over the same step compiled plain.

Each model is compiled twice with the same weights. Steps (forward, loss, backward, SGD) of the two alternate in one
process, so that both see the same machine, and the ratio of each neighbouring pair is taken; the report is the median of
the ratios with the 20 % and 80 % quantiles.

    OMP_NUM_THREADS=1 python -m benchmarks.step_overhead --out benchmarks/results/step_overhead.jsonl
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import MODELS
from tract_fx import tract_backend
from tract_fx.demo.environment import environment

WARM_UP = 3


def main() -> None:
    """Measure the models asked for and append one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], default=[], help="default: all")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of steps (default: 20)")
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    arguments = parser.parse_args()
    for name in arguments.models or MODELS:
        record = {**measure(name, arguments.pairs), **environment("cpu"), "threads": torch.get_num_threads()}
        line = json.dumps(record)
        print(line, flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(line + "\n")


def measure(name: str, pairs: int) -> dict[str, Any]:
    """Seconds of plain and TrAct steps of one model, and their ratio."""
    make, batch, size = MODELS[name]
    torch.manual_seed(0)
    model = make()
    x, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))
    backend = tract_backend(0.1)
    steps = [step(copy.deepcopy(model), compiler, x, labels) for compiler in ("inductor", backend)]
    for _ in range(WARM_UP):
        for run in steps:
            run()
    seconds = [[timed(run) for run in steps] for _ in range(pairs)]
    ratios = [tract / plain for plain, tract in seconds]
    low, *_, high = statistics.quantiles(ratios, n=5)
    (match,) = backend.matches
    return {
        "benchmark": "step_overhead",
        "model": name,
        "batch": batch,
        "image": size,
        "dtype": "float32",
        "rows": match.rows,
        "features": match.features,
        "pairs": pairs,
        "plain_seconds": statistics.median(plain for plain, _ in seconds),
        "tract_seconds": statistics.median(tract for _, tract in seconds),
        "ratio": statistics.median(ratios),
        "ratio_20_percent": low,
        "ratio_80_percent": high,
    }


def step(model: nn.Module, backend: Any, x: Tensor, labels: Tensor) -> Callable[[], None]:
    """One training step as a function without arguments."""
    compiled = torch.compile(model, backend=backend, dynamic=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(compiled(x), labels).backward()
        optimizer.step()

    return run


def timed(run: Callable[[], None]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
