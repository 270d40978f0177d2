"""Is the gradient right on raw 0..255 pixels, and what does float64 cost?

    python -m benchmarks.raw_pixels --data cifar10.tar.xz

For each case and each patch, the first layer's gradient ``G (X^T X / r + lam I)^-1`` is compared with a reference in
extended precision that knows ``G`` exactly:

- ``error``: the operators of this project, given ``G`` rounded to float32;
- ``floor``: exact arithmetic given the same rounded ``G``: no method that starts from it can be better;
- ``error_product`` and ``floor_product``: the same two when ``G`` is not only rounded, but the product of float32
  matrices, as a training step has it;
- ``error_exact_gradient``: the operators given ``G`` in float64, which leaves the error of Gram matrix and solver;
- ``error_float32``: patches, product, factorisation and solution in float32, given the rounded ``G``.

Errors are relative, in the Frobenius norm; null stands for one that is not finite. Times are medians in milliseconds of
calls in turn, with 20 % and 80 % quantiles: the float64 Gram operator, and float32 patches times themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry, unfold_patches
from tract_fx.ops.solve import primal_gradient, regularise

LAM = 0.1
OUTPUTS = 64
PATCHES = [(3, 1), (4, 4), (7, 2), (8, 8), (16, 16)]
CLASSES = 10
COLUMNS = ["case", "patch", "n", "condition", "error", "floor", "error_product", "floor_product"]
COLUMNS += ["error_exact_gradient", "error_float32", "info", "info_float32"]


def main() -> None:
    """Read the archive, measure everything, write JSON lines and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="tar archive with members train/<class>/<name>.jpg")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/raw_pixels.jsonl"))
    parser.add_argument("--images", type=int, default=320, help="number of 32-pixel images, the same of each class")
    parser.add_argument("--upsampled", type=int, default=16, help="how many of them to use at 224 pixels")
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = read_images(arguments.data, arguments.images)
    where = environment()
    results = []
    for case, input in cases(images, arguments.upsampled):
        for kernel, stride in PATCHES:
            results.append({"case": case, **measure(input, kernel, stride, arguments.repeats), **where})
            sys.stderr.write(f"{case} {kernel}/{stride}\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(result) + "\n" for result in results))
    sys.stdout.write(table(results))


def read_images(archive: Path, count: int) -> Tensor:
    """``(count, 3, 32, 32)`` in float32, 0..255, as many of each class, from one pass through the archive."""
    quota = -(-count // CLASSES)
    seen: Counter[str] = Counter()
    pixels = []
    with tarfile.open(archive, "r|*") as members:
        for member in members:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) != 3 or parts[0] != "train" or seen[parts[1]] == quota:
                continue
            seen[parts[1]] += 1
            with Image.open(members.extractfile(member)) as image:
                pixels.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
    # Of every class in turn, so that the first few are not all of one.
    order = [index for start in range(quota) for index in range(start, len(pixels), quota)]
    return torch.stack(pixels)[order[:count]].float()


def cases(images: Tensor, upsampled: int) -> Iterator[tuple[str, Tensor]]:
    """Names and inputs."""
    yield "CIFAR 0..255", images
    yield "upsampled to 224", torch.nn.functional.interpolate(images[:upsampled], size=224, mode="bilinear")
    yield "constant 200", torch.full_like(images, 200.0)


def measure(input: Tensor, kernel: int, stride: int, repeats: int) -> dict[str, Any]:
    """One line of the results, but for the case and the environment."""
    geometry = PatchGeometry((kernel, kernel), (stride, stride), (0, 0), (1, 1))
    patches = unfold_patches(input, geometry)
    rows, features = patches.shape[1:]
    output_gradient = torch.randn(OUTPUTS, rows)
    gradient = output_gradient.double() @ patches[0].double()
    rounded, product = gradient.float(), output_gradient @ patches[0]
    exact = Reference(patches[0])
    expected = exact.solve(gradient)
    single, info_single = float32_gradient(patches[0], rounded)

    def error(given: Tensor) -> float | None:
        return relative_error(primal_gradient(input, given[None], rows, LAM, geometry)[0], expected)

    def floor(given: Tensor) -> float | None:
        return relative_error(exact.solve(given.double()), expected)

    covariance = regularise(gram(input, geometry) / rows, LAM)[0]
    return {
        "patch": f"{kernel}/{stride}",
        "n": features,
        "rows": rows,
        "shape": list(input.shape),
        "dtype": str(input.dtype).removeprefix("torch."),
        "lam": LAM,
        "condition": finite(torch.linalg.cond(covariance).item()),
        "error": error(rounded),
        "floor": floor(rounded),
        "error_product": error(product),
        "floor_product": floor(product),
        "error_exact_gradient": error(gradient),
        "error_float32": relative_error(single, expected),
        "info": torch.linalg.cholesky_ex(covariance).info.item(),
        "info_float32": info_single,
        **timings(input, geometry, repeats),
    }


class Reference:
    """``G (X^T X / r + lam I)^-1`` in extended precision, which is 64 bits of mantissa on x86 and 53 elsewhere.

    The system is solved in float64 and the solution refined by residuals in extended precision.
    """

    def __init__(self, rows: Tensor) -> None:
        features = rows.shape[1]
        total = np.zeros((features, features), dtype=np.longdouble)
        for block in rows.split(4096):
            wide = block.numpy().astype(np.longdouble)
            total += wide.T @ wide
        self._matrix = total / len(rows) + np.longdouble(LAM) * np.eye(features, dtype=np.longdouble)
        self._factor = torch.linalg.cholesky(torch.from_numpy(self._matrix.astype(np.float64)))

    def solve(self, gradient: Tensor) -> Tensor:
        """The solution for ``G`` of shape ``(m, n)``, rounded to float64."""
        target = gradient.numpy().astype(np.longdouble)
        solution = np.zeros_like(target)
        for _ in range(5):
            residual = torch.from_numpy((target - solution @ self._matrix).astype(np.float64))
            solution += torch.cholesky_solve(residual.T, self._factor).T.numpy()
        return torch.from_numpy(solution.astype(np.float64))


def float32_gradient(rows: Tensor, gradient: Tensor) -> tuple[Tensor, int]:
    """The same formula with everything in float32, and LAPACK's ``info``."""
    covariance = rows.T @ rows / len(rows)
    factor, info = torch.linalg.cholesky_ex(covariance + LAM * torch.eye(rows.shape[1]))
    return torch.cholesky_solve(gradient.T, factor).T, info.item()


def timings(input: Tensor, geometry: PatchGeometry, repeats: int) -> dict[str, float]:
    """Milliseconds of the float64 operator and of float32 patches times themselves, called in turn."""

    def naive() -> Tensor:
        patches = unfold_patches(input, geometry)
        return patches.mT @ patches

    calls: dict[str, Callable[[], Tensor]] = {"float64": lambda: gram(input, geometry), "float32": naive}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first one warms up
                spent[name].append(1e3 * (time.perf_counter() - start))
    result = {}
    for name, values in spent.items():
        fifths = statistics.quantiles(values, n=5)
        result[f"{name}_ms"] = round(statistics.median(values), 3)
        result[f"{name}_ms_quantiles"] = [round(fifths[0], 3), round(fifths[-1], 3)]
    return result


def relative_error(found: Tensor, expected: Tensor) -> float | None:
    """In the Frobenius norm; none if it is not finite."""
    return finite(((found.double() - expected).norm() / expected.norm()).item())


def finite(value: float) -> float | None:
    """``value`` to four digits, or none for what JSON has no number for."""
    return float(f"{value:.3e}") if math.isfinite(value) else None


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The processor's name; of a virtual machine what it tells its guests."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(results: list[dict[str, Any]]) -> str:
    """Results as Markdown."""
    lines = ["| " + " | ".join([*COLUMNS, "float64 ms", "float32 ms"]) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for result in results:
        values = [result[column] for column in COLUMNS]
        shown = [f"{value:.1e}" if isinstance(value, float) else str(value) for value in values]
        shown += [f"{result['float64_ms']:.1f}", f"{result['float32_ms']:.1f}"]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
