"""Factorisation and solution alone, for the sizes of the usual first layers: eager, and as a captured CUDA graph.

For small systems both ways are measured, that of the library and that of the kernel; the operator takes the faster one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_first.records import Records
from benchmarks.gpu_first.timing import seconds_of_block, wait
from tract_fx.ops.gpu.launch import is_triton_usable
from tract_fx.ops.gpu.small_systems import LARGEST, eliminated
from tract_fx.ops.solve import by_library, factor_and_solve, regularise

__all__ = ["run"]

# Features and outputs: the stems of a ResNet and of a vision transformer, for CIFAR and for ImageNet.
SIZES = {"3x3": (27, 64), "4x4": (48, 384), "8x8 grey": (64, 192), "7x7": (147, 64), "16x16": (768, 384)}
LAM = 0.1
CALLS, BLOCKS = 50, 7
# Relative to a solution by elimination with pivots; the systems are well conditioned.
TOLERANCE = 1e-9

Ways = dict[str, Callable[[], object]]


def run(records: Records) -> int:
    """Measure what is missing. First everything eager: a capture that fails may leave nothing that works."""
    names = list(SIZES)[:2] if records.tiny else list(SIZES)
    systems = {name: system(*SIZES[name], records.device) for name in names}
    found, wrong = records.found(), 0
    for how, measure in (("eager", measure_eager), ("captured", measure_captured)):
        for name in names:
            key = f"{name} {how}"
            if not is_done(found.get(key), records.device):
                wrong += measure(records, key, *systems[name])
    return int(wrong > 0)


def is_done(record: dict[str, Any] | None, device: str) -> bool:
    """Whether there is a result that is right; what failed is tried again."""
    if record is None or "error" not in record:
        return record is not None and device != "cuda"
    return record["error"] <= TOLERANCE


def system(features: int, outputs: int, device: str) -> tuple[Tensor, Tensor]:
    """A regularised covariance of noise, ``(1, n, n)``, and a gradient, ``(1, m, n)``."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4 * features, features, dtype=torch.float64, generator=generator)
    gradient = torch.randn(1, outputs, features, dtype=torch.float64, generator=generator)
    return regularise((rows.T @ rows / len(rows))[None].to(device), LAM), gradient.to(device)


def measure_eager(records: Records, key: str, matrix: Tensor, gradient: Tensor) -> int:
    """The operator, the ways that it may take, and both halves of one of them."""
    factor = torch.linalg.cholesky_ex(matrix)[0]
    ways: Ways = {
        "operator": lambda: factor_and_solve(matrix, gradient),
        "library": lambda: by_library(matrix, gradient),
        "cholesky_ex": lambda: torch.linalg.cholesky_ex(matrix),
        "cholesky_solve": lambda: torch.cholesky_solve(gradient.mT, factor),
    }
    error = error_of(factor_and_solve(matrix, gradient)[0], matrix, gradient)
    if matrix.shape[-1] <= LARGEST and is_triton_usable(matrix):
        try:
            error = max(error, error_of(eliminated(matrix, gradient)[0], matrix, gradient))
            ways["kernel"] = lambda: eliminated(matrix, gradient)
        except Exception as problem:  # whatever a compiler or driver may raise: the operator does without it
            print(f"gpu_first: the kernel for {key}: {type(problem).__name__}: {problem}", file=sys.stderr)
    return write(records, key, matrix, gradient, median_seconds(ways, records), error)


def measure_captured(records: Records, key: str, matrix: Tensor, gradient: Tensor) -> int:
    """Replays of a graph that was captured, with other values than those it was captured with."""
    if records.device != "cuda":
        records.write(key, n=matrix.shape[-1], outputs=gradient.shape[1], captured=False, why="no CUDA device")
        return 0
    try:
        replay, result = capture(matrix, gradient)
        other = gradient.flip(1).clone()
        gradient.copy_(other)
        replay()
        error = error_of(result, matrix, gradient)
        seconds = median_seconds({"operator": replay}, records)
    except RuntimeError as problem:  # what this is here to find out
        print(f"gpu_first: {key}: {problem}", file=sys.stderr)
        records.write(key, n=matrix.shape[-1], outputs=gradient.shape[1], captured=False, why=str(problem)[:500])
        return 1
    return write(records, key, matrix, gradient, seconds, error, captured=True)


def capture(matrix: Tensor, gradient: Tensor) -> tuple[Callable[[], object], Tensor]:
    """A graph's replay, and the tensor it writes to."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        factor_and_solve(matrix, gradient)  # libraries allocate what they need
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result, _ = factor_and_solve(matrix, gradient)
    return graph.replay, result


def median_seconds(ways: Ways, records: Records) -> dict[str, float]:
    """Of blocks of calls that take turns."""
    calls, blocks = (2, 2) if records.tiny else (CALLS, BLOCKS)
    for call in ways.values():
        call()
    wait(records.device)
    spent = [
        {name: seconds_of_block(call, calls, records.device) for name, call in ways.items()} for _ in range(blocks)
    ]
    return {name: statistics.median(row[name] for row in spent) for name in ways}


def error_of(found: Tensor, matrix: Tensor, gradient: Tensor) -> float:
    """Relative to elimination with pivots, on a CPU."""
    expected = torch.linalg.solve(matrix.cpu(), gradient.cpu(), left=False)
    return ((found.cpu() - expected).norm() / expected.norm()).item()


def write(
    records: Records,
    key: str,
    matrix: Tensor,
    gradient: Tensor,
    seconds: dict[str, float],
    error: float,
    **others: bool,
) -> int:
    """Write a result, and tell whether it is wrong."""
    records.write(key, n=matrix.shape[-1], outputs=gradient.shape[1], seconds=seconds, error=error, **others)
    return int(not error <= TOLERANCE)
