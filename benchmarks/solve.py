"""Ways to solve ``G (C + lam I)^-1``: what they cost, and what they get wrong.

    OMP_NUM_THREADS=1 python -m benchmarks.solve --out benchmarks/results/solve.jsonl

The covariance is that of the patches of smooth random images, standardised or on the scale of raw pixels. The ways take
turns in one process; times are medians in seconds with 20 % and 80 % quantiles, errors are relative to a float64
Cholesky factorisation in the Frobenius norm (null when not finite).

- ``cholesky_float64``: what the pass inserts;
- ``cholesky_float32``: the same in float32;
- ``refined``: the float32 factor, and two steps of iterative refinement with residuals in float64;
- ``conjugate_gradients``: a fixed number of steps in float32, no factorisation;
- ``newton_schulz``: a fixed number of steps for the inverse in float32, matrix products only.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lines import emit
from benchmarks.throughput import timed
from tract_fx.environment import environment
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry

LAM = 0.1
STEPS = 16
# kernel = stride, outputs: the stems of ResNet (its 147 features are those of 7x7 patches) and of vision transformers
STEMS = {"3x3": (3, 64), "4x4": (4, 384), "7x7": (7, 64), "8x8": (8, 384), "16x16": (16, 384)}
SCALES = {"standardised": (1.0, 0.0), "raw pixels": (60.0, 120.0)}


def cholesky(matrix: Tensor, gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Factor and solve in ``dtype``; ``gradient`` is ``(m, n)``."""
    factor, _ = torch.linalg.cholesky_ex(matrix.to(dtype))
    return torch.cholesky_solve(gradient.to(dtype).T, factor).T


def refined(matrix: Tensor, gradient: Tensor) -> Tensor:
    """A float32 factorisation, corrected twice."""
    factor, _ = torch.linalg.cholesky_ex(matrix.float())
    solution = torch.zeros_like(gradient, dtype=torch.float64)
    for _ in range(3):
        residual = gradient - solution @ matrix
        solution = solution + torch.cholesky_solve(residual.float().T, factor).T
    return solution


def conjugate_gradients(matrix: Tensor, gradient: Tensor) -> Tensor:
    """All rows of the gradient at once, each with step sizes of its own."""
    matrix, residual = matrix.float(), gradient.float()
    solution, direction, norm = torch.zeros_like(residual), residual, residual.square().sum(1, keepdim=True)
    for _ in range(STEPS):
        image = direction @ matrix
        step = norm / (direction * image).sum(1, keepdim=True)
        solution, residual = solution + step * direction, residual - step * image
        before, norm = norm, residual.square().sum(1, keepdim=True)
        direction = residual + norm / before * direction
    return solution


def newton_schulz(matrix: Tensor, gradient: Tensor) -> Tensor:
    """``Y <- Y (2 I - A Y)`` from ``Y = I / ||A||_1``."""
    matrix = matrix.float()
    identity = torch.eye(len(matrix))
    inverse = identity / matrix.abs().sum(0).max()
    for _ in range(STEPS):
        inverse = inverse @ (2 * identity - matrix @ inverse)
    return gradient.float() @ inverse


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cholesky_float64": lambda matrix, gradient: cholesky(matrix, gradient, torch.float64),
    "cholesky_float32": lambda matrix, gradient: cholesky(matrix, gradient, torch.float32),
    "refined": refined,
    "conjugate_gradients": conjugate_gradients,
    "newton_schulz": newton_schulz,
}


def main() -> None:
    """Measure every stem on both scales and append one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=21, help="calls of each way (default: 21)")
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    arguments = parser.parse_args()
    for stem in STEMS:
        for scale in SCALES:
            emit({**measure(stem, scale, arguments.repeats), **environment("cpu")}, arguments.out)


def measure(stem: str, scale: str, repeats: int) -> dict[str, Any]:
    """Times and errors of all ways for one covariance."""
    kernel, outputs = STEMS[stem]
    torch.manual_seed(0)
    factor, offset = SCALES[scale]
    images = factor * smooth_images(224) + offset
    geometry = PatchGeometry((kernel,) * 2, (kernel,) * 2, (0, 0), (1, 1))
    rows = len(images) * (224 // kernel) ** 2
    covariance = gram(images, geometry)[0] / rows
    matrix = covariance + LAM * torch.eye(len(covariance), dtype=torch.float64)
    gradient = torch.randn(outputs, len(matrix), dtype=torch.float64) @ covariance
    expected = cholesky(matrix, gradient, torch.float64)
    seconds = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            seconds[name].append(timed(lambda way=way: way(matrix, gradient), "cpu"))
    return {
        "benchmark": "solve",
        "stem": stem,
        "scale": scale,
        "n": len(matrix),
        "outputs": outputs,
        "lam": LAM,
        "condition": torch.linalg.cond(matrix).item(),
        "threads": torch.get_num_threads(),
        "ways": {name: summary(seconds[name], error(way(matrix, gradient), expected)) for name, way in WAYS.items()},
    }


def smooth_images(size: int) -> Tensor:
    """``(8, 3, size, size)`` with mean 0 and variance 1, low frequencies stronger than high ones, as in photographs."""
    octaves = [torch.randn(8, 3, size >> level, size >> level) * 2.0**level for level in range(6)]
    resized = (torch.nn.functional.interpolate(octave, size=size, mode="bilinear") for octave in octaves)
    images = sum(resized)
    return (images - images.mean()) / images.std()


def summary(seconds: list[float], relative: float) -> dict[str, float | None]:
    """Median and quantiles of the times, and the error."""
    low, *_, high = statistics.quantiles(seconds, n=5)
    finite = relative if relative < float("inf") else None
    return {
        "seconds": statistics.median(seconds),
        "seconds_20_percent": low,
        "seconds_80_percent": high,
        "error": finite,
    }


def error(found: Tensor, expected: Tensor) -> float:
    """Relative difference in the Frobenius norm."""
    return ((found.double() - expected).norm() / expected.norm()).item()


if __name__ == "__main__":
    main()
