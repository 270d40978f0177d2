"""The Gram matrix of patches alone: against patches in memory times themselves, a plain product, and the hardware.

    OMP_NUM_THREADS=1 python -m benchmarks.gram --out benchmarks/results/gram.jsonl
    python -m benchmarks.gram --device cuda --out benchmarks/results/gram.jsonl

For each layer and dtype of its input, these take turns in one process, so that all see the same machine:

- ``gram``: the operator, whose result is in float64;
- ``unfold_float32``, ``unfold_float64``: patches written to memory in that dtype, and multiplied with themselves (on a GPU
  also ``unfold_bfloat16``, for an input in bfloat16);
- ``gemm_float32``, ``gemm_float64``, ``gemm_bfloat16``: a product of an ``r x n`` and an ``n x n`` matrix, which are there
  already: what the patches cost in a layer with ``n`` outputs.

Reported are medians in seconds with 20 % and 80 % quantiles. ``roofline_seconds`` is what the operator would take if it read
its input and wrote its result at the speed of a copy, or did the multiplications of one triangle at the speed of a large
square product, whichever is longer; both speeds are measured before, in the same process. Where patches overlap, the CPU's
way needs fewer multiplications than that and can be faster. Memory is what a call has allocated at its peak
beyond its input, in a process of its own.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.lines import emit
from tract_fx.environment import environment
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches

WARM_UP = 3
# A sample is as many calls as take about so long.
SAMPLE_SECONDS = 2e-3


class Case(NamedTuple):
    """A layer's geometry, the shape of one image, and how many of them a CPU and a GPU get."""

    geometry: PatchGeometry
    image: tuple[int, ...]
    batch: dict[str, int]


def square(kernel: int, stride: int, padding: int, groups: int = 1) -> PatchGeometry:
    """A convolution of squares."""
    return PatchGeometry((kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1), groups)


CASES = {
    "3x3/1 32px": Case(square(3, 1, 1), (3, 32, 32), {"cpu": 128, "cuda": 128}),
    "4x4/4 32px": Case(square(4, 4, 0), (3, 32, 32), {"cpu": 128, "cuda": 128}),
    "7x7/2 224px": Case(square(7, 2, 3), (3, 224, 224), {"cpu": 16, "cuda": 256}),
    "16x16/16 224px": Case(square(16, 16, 0), (3, 224, 224), {"cpu": 16, "cuda": 256}),
    "linear 3072": Case(LINEAR, (3072,), {"cpu": 1024, "cuda": 8192}),
    "3x3/1 32px, 32 channels in 4 groups": Case(square(3, 1, 1, groups=4), (32, 32, 32), {"cpu": 32, "cuda": 128}),
}
DTYPES = {"cpu": ["float32"], "cuda": ["float32", "bfloat16"]}


def main() -> None:
    """Measure the cases asked for and append one JSON line for each of them and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[], help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=21, help="samples of each side (default: 21)")
    parser.add_argument("--out", type=Path, help="file to which JSON lines are appended")
    parser.add_argument("--memory-of", nargs=3, metavar=("CASE", "DTYPE", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    if arguments.memory_of:
        case, dtype, side = arguments.memory_of
        print(peak_bytes(CASES[case], arguments.device, dtype, side))
        return
    speeds = hardware_speeds(arguments.device)
    for name in arguments.cases or CASES:
        for dtype in DTYPES[arguments.device]:
            record = measure(name, arguments.device, dtype, arguments.repeats, speeds)
            emit({**record, **environment(arguments.device), "threads": torch.get_num_threads()}, arguments.out)


def measure(name: str, device: str, dtype: str, repeats: int, speeds: dict[str, float]) -> dict[str, Any]:
    """Times and memory of all sides of one case."""
    case = CASES[name]
    input = make_input(case, device, dtype)
    sides = make_sides(case, input)
    rows, features = (
        unfold_patches(input[:1], case.geometry).shape[1] * len(input),
        case.geometry.features(input.shape[1]),
    )
    spent = take_turns(sides, repeats, device)
    record: dict[str, Any] = {
        "benchmark": "gram",
        "case": name,
        "batch": len(input),
        "image": case.image,
        "dtype": dtype,
        "rows": rows,
        "features": features,
        "groups": case.geometry.groups,
        "repeats": repeats,
        "speeds": speeds,
        "roofline_seconds": roofline(input, rows, features, case.geometry.groups, speeds),
    }
    medians = {side: statistics.median(values) for side, values in spent.items()}
    for side, values in spent.items():
        low, *_, high = statistics.quantiles(values, n=5)
        record[f"{side}_seconds"] = [medians[side], low, high]
    record["of_roofline"] = record["roofline_seconds"] / medians["gram"]
    record["ratios"] = {
        side: statistics.median(other / own for own, other in zip(spent["gram"], values, strict=True))
        for side, values in spent.items()
        if side != "gram"
    }
    record["extra_bytes"] = {
        side: peak_bytes_elsewhere(name, device, dtype, side) for side in sides if not side.startswith("gemm")
    }
    return record


def make_input(case: Case, device: str, dtype: str) -> Tensor:
    """Standardised pixels."""
    shape = case.batch[device], *case.image
    return torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(0)).to(getattr(torch, dtype))


def make_sides(case: Case, input: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is compared, by name."""
    names = ["float32", "float64"] + ["bfloat16"] * (input.dtype == torch.bfloat16)
    sides: dict[str, Callable[[], Tensor]] = {"gram": lambda: gram(input, case.geometry)}
    for name in names:
        sides[f"unfold_{name}"] = unfolded(case, input, getattr(torch, name))
    for name in names:
        sides[f"gemm_{name}"] = product(case, input, getattr(torch, name))
    return sides


def unfolded(case: Case, input: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Patches in memory times themselves."""

    def run() -> Tensor:
        patches = unfold_patches(input, case.geometry).to(dtype)
        return patches.mT @ patches

    return run


def product(case: Case, input: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """``(r, n)`` times ``(n, n)`` for each group. The matrices are made at the first call, and kept."""
    kept: list[Tensor] = []

    def run() -> Tensor:
        if not kept:
            patches = unfold_patches(input, case.geometry).to(dtype).contiguous()
            kept.extend([patches, torch.randn(patches.shape[-1], patches.shape[-1], device=input.device).to(dtype)])
        return kept[0] @ kept[1]

    return run


def take_turns(sides: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of a call, for each side and sample."""
    calls = {}
    for side, run in sides.items():
        for _ in range(WARM_UP):
            once = seconds(run, 1, device)
        calls[side] = max(1, math.ceil(SAMPLE_SECONDS / once))
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, run in sides.items():
            spent[side].append(seconds(run, calls[side], device))
    return spent


def seconds(run: Callable[[], Tensor], calls: int, device: str) -> float:
    """Seconds that a call takes, when so many follow each other."""
    wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - started) / calls


def wait(device: str) -> None:
    """Until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def hardware_speeds(device: str) -> dict[str, float]:
    """Bytes per second of a copy, read and written; operations per second of large products, by dtype."""
    elements, size = (2**25, 2048) if device == "cpu" else (2**29, 8192)
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device)
    speeds = {"copy_bytes": 2 * source.nbytes / copy}
    for name in ["float32", "float64"] + ["bfloat16"] * (device == "cuda"):
        matrix = torch.randn(size, size, device=device).to(getattr(torch, name))
        speeds[f"{name}_operations"] = 2 * size**3 / best_seconds(lambda matrix=matrix: matrix @ matrix, device)
    return speeds


def best_seconds(run: Callable[[], Tensor], device: str) -> float:
    """The fastest of some calls, as a limit is asked for."""
    return min(seconds(run, 1, device) for _ in range(10))


def roofline(input: Tensor, rows: int, features: int, groups: int, speeds: dict[str, float]) -> float:
    """Seconds below which the operator cannot be."""
    dtype = "bfloat16" if input.dtype == torch.bfloat16 else "float64"
    moved = input.nbytes + 8 * groups * features**2
    operations = groups * rows * features * (features + 1)
    return max(moved / speeds["copy_bytes"], operations / speeds[f"{dtype}_operations"])


def peak_bytes_elsewhere(case: str, device: str, dtype: str, side: str) -> int:
    """:func:`peak_bytes` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.gram", "--device", device, "--memory-of", case, dtype, side]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_bytes(case: Case, device: str, dtype: str, side: str) -> int:
    """Bytes that the first call with this input has allocated at its peak; libraries are loaded by a small one before."""
    small = case._replace(batch={device: 1})
    make_sides(small, make_input(small, device, dtype))[side]()
    input = make_input(case, device, dtype)
    run = make_sides(case, input)[side]
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        wait(device)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident_bytes("VmRSS")
    run()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """A size from Linux' account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    main()
