"""The last product of the dual form, ``A^T X``, in float32 where that is exact enough and in float64 where it is not.

The coefficients ``A = (X X^T / r + lam I)^-1 dZ`` are large in directions in which the rows of ``X`` nearly cancel, so
that the product can lose many digits. How many is known before it is computed. A sum over rows ``1 .. r`` in float32
rounds each of its partial sums by a random part of at most ``u = 2^-24``, and each coefficient by as much, which makes
the error's expected squared norm (Higham and Mary, SIAM J. Sci. Comput. 41 (2019), model of independent rounding
errors)::

    u^2 / 3 * (sum_k |A_k^T X_k|^2 + sum_k |a_k|^2 |x_k|^2)         A_k, X_k: the first k rows, a_k, x_k: row k

All the norms are in two small matrices, the second of which the solve has made already::

    |A_k^T X_k|^2 = sum_{i, j <= k} (A A^T)_ij (X X^T)_ij

On photographs the estimate is 1.2 to 2 times the error that is found, where a bound from ``|A| |X|`` alone is 5 to 30
times as large and would refuse most of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["TOLERANCE", "UNIT_ROUNDOFF", "coefficient_product", "estimated_error", "is_float32_exact"]

# Estimated relative error up to which the product is taken in float32; 1e-5 is promised.
TOLERANCE = 8e-6

# Half a unit in the last place of float32, relative: the largest error of one rounding.
UNIT_ROUNDOFF = 2.0**-24
# Where numbers become denormal, rounding errors are no longer relative, and some processors are set to flush them to zero.
SMALLEST = torch.finfo(torch.float32).tiny


def coefficient_product(coefficients: Tensor, patches: Tensor, kernel: Tensor) -> Tensor:
    """``coefficients^T @ patches``, with a relative error of at most 1e-5.

    Args:
        coefficients: ``(r, m)`` in float64.
        patches: ``(r, n)`` of any floating-point dtype.
        kernel: ``patches @ patches^T`` in float64, ``(r, r)``.

    Returns:
        ``(m, n)``: in float64 for float64 patches, and in float32 else.
    """
    is_narrow = patches.dtype != torch.float64
    if is_narrow and is_float32_exact() and estimated_error(coefficients, kernel, patches) <= TOLERANCE:
        return coefficients.to(torch.float32).T @ patches.to(torch.float32)
    product = coefficients.T @ patches.to(torch.float64)
    return product.to(torch.float32) if is_narrow else product


def estimated_error(coefficients: Tensor, kernel: Tensor, patches: Tensor) -> float:
    """Expected relative error of the product in float32, in the Frobenius norm; NaN or infinite where it is not known.

    Args:
        coefficients: ``A``, ``(r, m)`` in float64.
        kernel: ``X X^T``, ``(r, r)`` in float64.
        patches: ``X``, ``(r, n)``; only its shape matters.
    """
    flat = coefficients.reshape(-1)
    size, trace = flat.dot(flat).sqrt(), kernel.trace()  # ``norm`` is ten times slower
    if not size or not trace:
        return 0.0
    if not max(size, size * trace.sqrt()) < torch.finfo(torch.float32).max:
        return math.inf
    unit = coefficients.to(torch.float32).div_(size)
    overlaps = kernel * (unit @ unit.T)
    partial = overlaps.cumsum(0).cumsum(1).diagonal().clamp(min=0)
    rounding = (UNIT_ROUNDOFF**2 / 3) * (partial.sum() + overlaps.diagonal().sum())
    # ``unit @ unit.T`` is itself in float32: what its rounding may have added to the norm of the result is taken away.
    smallest_result = partial[-1] - 4 * UNIT_ROUNDOFF * trace
    denormal = SMALLEST * (len(kernel) * coefficients.shape[1]) ** 0.5
    lost = denormal * (trace.sqrt() + (len(kernel) * patches.shape[1]) ** 0.5) / size
    return ((rounding.sqrt() + lost) / smallest_result.clamp(min=0).sqrt()).item()


def is_float32_exact() -> bool:
    """Whether products of float32 matrices are in float32, and not in bfloat16 or TF32 as a user may ask for."""
    return torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
