"""Small systems on a GPU: one kernel in the place of a library's factorisation and solution, where it is right and faster.

A library launches several kernels for a matrix of 27 rows, which compute little. Whether
:mod:`tract_fx.ops.gpu.elimination` is better on a device is not assumed: the first time that a system of some size is to
be solved, both solve it, the results are compared, both are measured, and the faster one is kept.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tract_fx.errors import TractWarning
from tract_fx.ops.gpu.configs import measure
from tract_fx.ops.gpu.launch import is_triton_usable
from tract_fx.ops.gpu.verification import is_capturing

__all__ = ["LARGEST", "eliminated", "launch_sizes", "small_solution"]

log = logging.getLogger(__name__)

Solution: TypeAlias = tuple[Tensor, Tensor]
Solver: TypeAlias = Callable[[Tensor, Tensor], Solution]

# Features of the largest system that fits into the registers of a program.
LARGEST = 64
# Right-hand sides of a program; and warps, by the rows that it has room for.
COLUMNS = 16
WARPS = {16: 1, 32: 4, 64: 8}
# Times ``n eps`` and the condition number: by how much both solutions may differ.
TOLERANCE = 16.0


def small_solution(matrix: Tensor, gradient: Tensor, library: Solver) -> Solution | None:
    """What :func:`tract_fx.ops.solve.factor_and_solve` returns; None where that is left to ``library``.

    That is so for large systems, where the kernel cannot run, is wrong or slower, and wherever it cannot be found out: while
    a CUDA graph is captured, or where the choice may not depend on a measurement.

    Args:
        matrix: ``(groups, n, n)`` in float64.
        gradient: ``(groups, m, n)`` in float64.
        library: the other way to solve it.
    """
    if matrix.shape[-1] > LARGEST or not gradient.numel() or not is_triton_usable(matrix):
        return None
    if torch.are_deterministic_algorithms_enabled():  # both are, but which of them is the faster one is not
        return None
    key, kept = (matrix.device, *gradient.shape), _kept()
    if key not in kept:
        if is_capturing(matrix.device):
            return None
        kept[key] = _is_right(matrix, gradient, library) and _is_faster(matrix, gradient, library)
    return eliminated(matrix, gradient) if kept[key] else None


def eliminated(matrix: Tensor, gradient: Tensor) -> Solution:
    """The same by the kernel, on the device of the tensors, or anywhere in Triton's interpreter."""
    eliminate = _kernel()
    groups, outputs, features = gradient.shape
    solution = torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    info = torch.empty(groups, dtype=torch.int32, device=matrix.device)
    sizes, warps = launch_sizes(features)
    with torch.cuda.device(matrix.device if matrix.is_cuda else -1):
        eliminate[(groups * -(-outputs // COLUMNS),)](
            matrix.contiguous(), gradient.contiguous(), solution, info, features, outputs, **sizes, num_warps=warps,
            enable_fp_fusion=True,
        )  # fmt: skip
    return solution, info


def launch_sizes(features: int) -> tuple[dict[str, int], int]:
    """Constants of the kernel for ``n`` features, and its warps."""
    size = next(size for size in WARPS if features <= size)
    return {"SIZE": size, "COLUMNS": COLUMNS}, WARPS[size]


@functools.cache
def _kernel() -> Any:
    from tract_fx.ops.gpu.elimination import eliminate

    return eliminate


@functools.cache
def _kept() -> dict[Hashable, bool]:
    """Whether the kernel solves the systems of a device and a size."""
    return {}


def _is_faster(matrix: Tensor, gradient: Tensor, library: Solver) -> bool:
    ways = (eliminated, library)
    kernel, other = (measure(functools.partial(way, matrix, gradient), (0.5,))[0] for way in ways)
    log.debug("systems of %s: %g ms by the kernel, %g ms by the library", tuple(gradient.shape), kernel, other)
    return kernel < other


def _is_right(matrix: Tensor, gradient: Tensor, library: Solver) -> bool:
    """Whether the kernel gives what the library gives; the user is told if it does not."""
    try:
        if all(_agree(*system, library) for system in _systems(matrix, gradient)):
            return True
        problem = "gives another result than PyTorch's"
    except Exception as error:  # whatever a compiler or driver may raise: there is another way
        log.debug("the kernel failed its check", exc_info=True)
        problem = f"fails ({type(error).__name__}: {error})"
    warnings.warn(
        f"The Triton kernel for small systems {problem} on {matrix.device}; PyTorch's factorisation takes its place. "
        "Please report this.",
        TractWarning,
        stacklevel=3,
    )
    return False


def _systems(matrix: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The layer's own, unless nothing can be seen there; a well conditioned one; and one that cannot be solved."""
    if matrix.isfinite().all() and gradient.isfinite().all() and gradient.any():
        yield matrix, gradient
    groups, outputs, features = gradient.shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(groups, 2 * features, features, dtype=torch.float64, generator=generator)
    noise = torch.randn(groups, outputs, features, dtype=torch.float64, generator=generator).to(gradient.device)
    spread = (rows.mT @ rows / features).to(matrix.device)
    yield spread, noise
    spread[:, -1, -1] = -1.0
    yield spread, noise


def _agree(matrix: Tensor, gradient: Tensor, library: Solver) -> bool:
    """Whether both fail for the same groups, and differ elsewhere by what the condition of a system allows."""
    (found, info), (expected, right) = eliminated(matrix, gradient), library(matrix, gradient)
    solved = right == 0
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    inverse, _ = library(matrix, identity)
    condition = _norms(matrix) * _norms(inverse)
    bound = TOLERANCE * matrix.shape[-1] * torch.finfo(matrix.dtype).eps * condition
    close = _norms(found - expected) <= bound * _norms(expected)
    return bool(((info == 0) == solved).all() and (close | ~solved).all())


def _norms(matrices: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrices, dim=(1, 2))
