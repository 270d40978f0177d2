"""Why TrAct harms on correlated features with few examples: accuracy in training and in testing, and where weights move.

    python -m benchmarks.correlated

The first case of `benchmarks.harm`, 512 features that are the ReLU of 24 factors, with more values of ``lam`` and seeds.
The leading eigenvectors of the training inputs' covariance that hold 95 % of the variance are the directions in which the
inputs vary; recorded is which share of the first layer's squared move lies outside of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harm
from benchmarks.raw_pixels import environment

LAMS = (None, 0.1, 1.0, 10.0, 100.0)
SEEDS = 5
VARIANCE = 0.95


def main() -> None:
    """Train with every ``lam``, write JSON lines and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/correlated.jsonl"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = environment()
    lines = []
    for lam in LAMS:
        lines.append(json.dumps({**measure(lam, range(arguments.seeds)), **where}) + "\n")
        sys.stdout.write(lines[-1])
        sys.stdout.flush()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(lines))


def measure(lam: float | None, seeds: Sequence[int]) -> dict[str, Any]:
    """One line of the results, at the learning rate with the better mean test accuracy."""
    case = next(harm.cases(None))
    x, labels = case.data()
    by_rate = {rate: [_run(case, x, labels, lam, rate, seed) for seed in seeds] for rate in harm.RATES}
    rate = max(by_rate, key=lambda key: statistics.fmean(run["test"] for run in by_rate[key]))
    figures = {key: [round(run[key], 4) for run in by_rate[rate]] for key in by_rate[rate][0]}
    return {"case": case.name, "lam": lam, "rate": rate, **figures}


def _run(case: harm.Case, x: Tensor, labels: Tensor, lam: float | None, rate: float, seed: int) -> dict[str, float]:
    fitted = harm.fit(case, x, labels, lam, rate, seed)
    before = fitted.start
    leading = leading_directions(fitted.train[0])
    return {
        "train": harm.right(fitted.model, fitted.train),
        "test": harm.right(fitted.model, fitted.test),
        "outside": share_outside(fitted.model[0].weight.detach() - before, leading),
        "directions": leading.shape[1],
    }


def leading_directions(x: Tensor) -> Tensor:
    """Eigenvectors `(features, directions)` of the covariance that hold `VARIANCE` of the variance, as few as do."""
    values, vectors = torch.linalg.eigh(x.double().T @ x.double() / len(x))
    held = values.flip(0).cumsum(0) / values.sum()
    return vectors.flip(1)[:, : int((held < VARIANCE).sum()) + 1]


def share_outside(move: Tensor, directions: Tensor) -> float:
    """Share of the squared norm of `(outputs, features)` outside of the span of orthonormal `(features, directions)`."""
    inside = (move.double() @ directions).square().sum()
    return (1 - inside / move.double().square().sum()).item()


if __name__ == "__main__":
    main()
