"""The closed form of TrAct (section 3 of the paper) on tensors: no graphs, no layers.

Layout: a gradient is ``(groups, m, n)``, rows ``X`` are ``(groups, r, n)``, gradients of pre-activations ``(groups, r, m)``.
Everything is float64 inside; the caller casts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tract_fx.ops.gpu.small_systems import small_solution
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry

__all__ = [
    "by_library",
    "factor_and_solve",
    "primal_gradient",
    "regularise",
    "relative_to",
    "scale_down",
    "scale_exponent",
    "scaled_lam",
    "shift",
    "solve_primal",
    "trace_of",
]

# The least that a relative lam comes to, in squared inputs: results stay far from the largest float32.
SMALLEST_RELATIVE = torch.finfo(torch.float32).tiny
# Times the bound below which rounding swallows lam.
ROUNDING_SAFETY = 8.0


def primal_gradient(
    input: Tensor,
    gradient: Tensor,
    rows: int,
    lam: Tensor | float,
    geometry: PatchGeometry,
    *,
    relative: bool = False,
) -> Tensor:
    """``G (C + lam I)^-1`` with ``C = X^T X / r``: an ``n x n`` system for each group.

    Args:
        input: what the layer saw, ``(batch, channels, *spatial)`` or ``(r, n)``.
        gradient: ``G``, the ordinary weight gradient, ``(groups, m, n)``.
        rows: ``r``.
        lam: positive number or tensor with one element.
        geometry: how rows are taken from ``input``.
        relative: whether ``lam`` is in units of the mean eigenvalue of ``C``, see :func:`scaled_lam`.

    Returns:
        ``(groups, m, n)`` in float64. For a group whose factorisation fails (only a covariance that is not finite can
        bring that about, see :func:`regularise`) it is ``gradient`` itself.
    """
    input, scale = scale_down(input)
    return solve_primal(gram(input, geometry) / rows, gradient, lam, scale, relative=relative)


def solve_primal(
    covariance: Tensor, gradient: Tensor, lam: Tensor | float, scale: Tensor | float, *, relative: bool = False
) -> Tensor:
    """:func:`primal_gradient` from the covariance of ``X / scale``, ``(groups, n, n)`` in float64."""
    lam = scaled_lam(covariance, lam, scale, covariance.shape[-1] if relative else None)
    wide, is_scaled = gradient.to(torch.float64), isinstance(scale, Tensor) or scale != 1
    solution, info = factor_and_solve(regularise(covariance, lam), wide / scale if is_scaled else wide)
    return torch.where((info == 0)[:, None, None], solution / scale if is_scaled else solution, wide)


# One operator for both, on every device: should a GPU's library not bear being captured as a part of a CUDA graph, then
# ``tags=(torch.Tag.cudagraph_unsafe,)`` here takes the two out of it, and leaves the rest in.
@torch.library.custom_op("tract_fx::factor_and_solve", mutates_args=())
def factor_and_solve(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """``G A^-1`` for symmetric positive definite ``A``, by a Cholesky factorisation that raises nothing.

    On a GPU a kernel may solve small systems in its place, see :mod:`tract_fx.ops.gpu.small_systems`.

    Args:
        matrix: ``A``, ``(groups, n, n)`` in float64.
        gradient: ``G``, ``(groups, m, n)`` in float64.

    Returns:
        ``(groups, m, n)``, and ``info`` as of ``torch.linalg.cholesky_ex``, ``(groups,)``: where it is not zero, the
        factorisation failed and the solution has no meaning.
    """
    found = small_solution(matrix, gradient, by_library)
    return by_library(matrix, gradient) if found is None else found


def by_library(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`factor_and_solve` by PyTorch's own operators."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.cholesky_solve(gradient.transpose(1, 2), factor).transpose(1, 2).contiguous(), info


@factor_and_solve.register_fake
def _(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient.new_empty(gradient.shape), matrix.new_empty(matrix.shape[:1], dtype=torch.int32)


def scaled_lam(matrix: Tensor, lam: Tensor | float, scale: Tensor | float, features: int | None) -> Tensor | float:
    """The regularisation in the unit of ``matrix``, which is that of ``(X / scale)^2``.

    It is ``lam / scale^2``; or, relative to the data, ``lam tr(C) / n`` for each group: ``lam`` times the mean eigenvalue of
    the covariance ``C``. Both matrices have the trace ``tr(C)``, the mean over rows of ``|x|^2``, so that both forms use the
    same value. A group of zeros, whose gradient is zero whatever is added, gets ``lam`` itself.

    Args:
        matrix: ``X^T X / r`` or ``X X^T / r`` of ``X / scale``, ``(groups, k, k)`` in float64.
        lam: positive number or tensor with one element; where it is absolute, also one for each group.
        scale: by which the inputs were divided.
        features: ``n`` where ``lam`` is relative, None where it is absolute.

    Returns:
        A number, a tensor with one element, or ``(groups,)``.
    """
    return lam / (scale * scale) if features is None else relative_to(trace_of(matrix) / features, lam, scale)


def relative_to(mean: Tensor, lam: Tensor | float, scale: Tensor | float = 1.0) -> Tensor:
    """``lam`` times the mean eigenvalue of each group, ``(groups,)``, in the unit of the eigenvalues: ``(X / scale)^2``."""
    found = torch.where(mean > 0, lam * mean, torch.zeros_like(mean) + lam)
    return torch.maximum(found, torch.zeros_like(mean) + SMALLEST_RELATIVE / (scale * scale))


def trace_of(matrix: Tensor) -> Tensor:
    """Traces of ``(groups, k, k)``, as ``(groups,)``."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def regularise(matrix: Tensor, lam: Tensor | float) -> Tensor:
    """``matrix + lam I``, with ``lam`` raised where float64 could not tell it from zero.

    Rounding in a sum of ``r`` outer products and in the factorisation perturbs a positive semi-definite ``n x n`` matrix
    by at most about ``n eps`` times its trace. A ``lam`` below that would vanish in the rounding and the factorisation
    might break down; it is raised to that bound. At ``lam = 0.1`` this first happens for pixel values of about 1e5 when
    ``n = 27`` and of about 1e4 when ``n = 768``, and never for standardised ones.

    Args:
        matrix: ``(groups, n, n)`` in float64, positive semi-definite up to rounding.
        lam: positive number or tensor with one element, or one for each group.
    """
    identity = torch.eye(matrix.shape[-1], dtype=torch.float64, device=matrix.device)
    return matrix + shift(matrix, lam)[:, None, None] * identity


def shift(matrix: Tensor, lam: Tensor | float) -> Tensor:
    """What :func:`regularise` adds to the diagonal: ``(groups,)``, ``lam`` or the bound where that is larger."""
    smallest = ROUNDING_SAFETY * matrix.shape[-1] * torch.finfo(torch.float64).eps * trace_of(matrix)
    return torch.maximum(smallest, torch.zeros_like(smallest) + lam)


def scale_down(input: Tensor) -> tuple[Tensor, Tensor | float]:
    """``input`` and a power of two so that squares cannot overflow float64; narrower dtypes never need it."""
    if input.dtype != torch.float64 or input.numel() == 0:
        return input, 1.0
    scale = torch.exp2(scale_exponent(input))
    return input / scale, scale


def scale_exponent(input: Tensor) -> Tensor:
    """Exponent, not negative, of the smallest power of two that no element exceeds."""
    return torch.ceil(torch.log2(input.abs().amax().clamp(min=1.0)))
