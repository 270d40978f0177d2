"""A Triton kernel for small systems: ``A`` and right-hand sides are eliminated together, without leaving the registers.

It is Gauss-Jordan elimination without a choice of pivots, which for symmetric positive definite matrices is as accurate as a
Cholesky factorisation: the error of the solution grows with the condition number (Higham, Accuracy and Stability of
Numerical Algorithms, section 14.4). The pivots are the squares of the diagonal of Cholesky's factor, so that it fails where
that does, and the solution comes out without a second pass through a triangle.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["eliminate"]


@triton.jit
def _picked(tile, is_picked, AXIS: tl.constexpr):
    """The row or column of a float64 tile that is picked; bits are added, as float64 is slow on some devices."""
    return tl.sum(tl.where(is_picked, tile.to(tl.int64, bitcast=True), 0), AXIS).to(tl.float64, bitcast=True)


def _eliminate(matrix, gradient, solution, info, n, m, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """``COLUMNS`` rows of ``G A^-1`` for one group; each program eliminates ``A`` for itself.

    Args:
        matrix: ``A``, ``(groups, n, n)`` in float64, symmetric.
        gradient: ``G``, ``(groups, m, n)`` in float64.
        solution: as ``gradient``.
        info: ``(groups,)`` in int32: the number of the first pivot that is not positive, or 0.
        n: of the systems.
        m: right-hand sides of a system.
        SIZE: ``n`` rounded up to a power of two, at least 16.
        COLUMNS: right-hand sides of one program.
    """
    blocks = tl.cdiv(m, COLUMNS)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    index = tl.arange(0, SIZE)
    row, column = index[:, None], index[None, :]
    output = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    exists = (row < n) & (output < m)
    places = (group * m + output) * n + row
    left = tl.load(matrix + (group * n + row) * n + column, mask=(row < n) & (column < n), other=0.0)
    right = tl.load(gradient + places, mask=exists, other=0.0)
    pivots = tl.full((SIZE,), 1.0, tl.float64)
    failed = 0
    for step in range(n):
        pivot_row = _picked(left, row == step, 0)
        factors = _picked(left, column == step, 1)
        pivot = _picked(factors, index == step, 0)
        failed = tl.where((failed == 0) & ((pivot > 0) == 0), step + 1, failed)
        factors = tl.where(index == step, 0.0, factors * (1.0 / pivot))
        left -= factors[:, None] * pivot_row[None, :]
        right -= factors[:, None] * _picked(right, row == step, 0)[None, :]
        pivots = tl.where(index == step, pivot, pivots)
    tl.store(solution + places, right / pivots[:, None], mask=exists)
    if block == 0:
        tl.store(info + group, failed)


# With these specialised, each number of rows of the dual form would be compiled for itself.
eliminate = triton.jit(_eliminate, do_not_specialize=["n", "m"])
