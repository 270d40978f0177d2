"""``tract_fx::primal_gradient``: the primal form of TrAct's gradient, ``G (C + lam I)^-1``, as one operator for a CPU.

An operator may look at values. It sums ``G = dZ^T X`` in float32 first, and again in float64 only where the error that this
brings about would come near to what is promised. That error is ``E (C + lam I)^-1``, ``E`` being that of ``G``, whose
variances are known (:mod:`tract_fx.ops.cpu.gradient`). What the inverse makes of them is measured: a few rows of random
numbers with these variances are solved together with ``G``.

The estimate is about three times the error that is found, because libraries add fewer rows one after the other than it
assumes. On standardised photographs it is about half of what is promised. On raw pixels it is too large, which the factor
tells before ``G`` is computed.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from tract_fx.ops.cpu.gradient import RELATIVE_VARIANCE, add_gradient, add_single_gradient
from tract_fx.ops.cpu.product import is_float32_exact
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import regularise, scale_down, scaled_lam

__all__ = ["TOLERANCES", "primal_gradient_on_cpu"]

# Estimated relative errors up to which sums in float32 are taken: 1e-5 is promised, and 1e-4 in narrower dtypes.
TOLERANCES = {torch.float32: 8e-6, torch.bfloat16: 8e-5, torch.float16: 8e-5}
# Rows of random numbers that are solved.
PROBES = 8
# Products of norms between which squares of sums are far from the smallest and the largest float32.
USUAL = 1e-12, 1e12


def primal_gradient_on_cpu(
    input: Tensor,
    output_gradient: Tensor,
    rows: int,
    lam: Tensor | float,
    geometry: PatchGeometry,
    *,
    relative: bool = False,
) -> Tensor:
    """``dZ^T X (C + lam I)^-1`` of each group.

    Args:
        input: what the layer saw, ``(batch, channels, *spatial)`` or ``(r, n)``.
        output_gradient: ``(batch, groups * m, *output)`` or ``(r, groups * m)``.
        rows: by which ``X^T X`` is divided.
        lam: positive number or tensor with one element, or with one for each group.
        geometry: how rows are taken from ``input``.
        relative: whether ``lam`` is in units of the mean eigenvalue of ``C``, see :func:`~tract_fx.ops.solve.scaled_lam`.

    Returns:
        ``(groups, m, n)``, in float64 for inputs in float64; else in float32, with a relative error of at most 1e-5, or 1e-4
        for narrower inputs. A group whose factorisation fails has ``dZ^T X`` itself.
    """
    if not isinstance(lam, Tensor):
        lam = torch.full((), lam, dtype=torch.float64)
    return _primal(input, output_gradient, rows, lam, *geometry.arguments(), relative)


@torch.library.custom_op("tract_fx::primal_gradient", mutates_args=())
def _primal(
    input: Tensor,
    output_gradient: Tensor,
    rows: int,
    lam: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relative: bool = False,
) -> Tensor:
    geometry = PatchGeometry.from_arguments(kernel_size, stride, padding, dilation, groups)
    result = _result(input, output_gradient, geometry)
    if input.numel() == 0 or output_gradient.numel() == 0:
        return result.zero_()
    scaled, scale = scale_down(input)
    covariance = gram(scaled, geometry) / rows
    lam = scaled_lam(covariance, lam, scale, result.shape[2] if relative else None)
    factor, info = torch.linalg.cholesky_ex(regularise(covariance, lam))
    of_groups = (tensor.unflatten(1, (groups, -1)).unbind(1) for tensor in (scaled, output_gradient))
    for index, (channels, gradient) in enumerate(zip(*of_groups, strict=True)):
        system = _System(channels, gradient, geometry, covariance[index].diagonal(), factor[index])
        result[index] = system.exact() * scale if info[index] else system.solution() / scale
    return result


@_primal.register_fake
def _(
    input: Tensor,
    output_gradient: Tensor,
    rows: int,
    lam: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relative: bool = False,
) -> Tensor:
    geometry = PatchGeometry.from_arguments(kernel_size, stride, padding, dilation, groups)
    return _result(input, output_gradient, geometry)


def _result(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    """What the operator returns, without its values."""
    shape = geometry.groups, output_gradient.shape[1] // geometry.groups, geometry.features(input.shape[1])
    return input.new_empty(shape, dtype=torch.promote_types(input.dtype, torch.float32))


class _System:
    """One group: its rows, gradients of outputs, the mean squares of its features, and the factor of its system."""

    def __init__(
        self, input: Tensor, output_gradient: Tensor, geometry: PatchGeometry, squares: Tensor, factor: Tensor
    ) -> None:
        self.input, self.output_gradient, self.geometry = input, output_gradient, geometry
        self.squares, self.factor = squares, factor
        self.tolerance = TOLERANCES.get(input.dtype, 0.0)

    def exact(self) -> Tensor:
        """``G``, ``(m, n)``, from sums in float64."""
        gradient = self._zeros()
        add_gradient(gradient, self.input, self.output_gradient, self.geometry)
        return gradient

    def solution(self) -> Tensor:
        """``(m, n)`` in float64."""
        found = self._from_single_sums() if self.tolerance and is_float32_exact() else None
        return self._solved(self.exact()) if found is None else found

    def _from_single_sums(self) -> Tensor | None:
        """The solution for ``G`` from sums in float32; None where its error may be too large."""
        size = _squared(self.output_gradient)
        smallest, largest = USUAL
        if not smallest < (size * self.squares.sum()).sqrt() < largest or self._is_hopeless():
            return None
        gradient = self._zeros()
        squares = add_single_gradient(gradient, self.input, self.output_gradient, self.geometry)
        deviations = (RELATIVE_VARIANCE * torch.maximum(squares, size * self.squares)).sqrt()
        solved = self._solved(torch.cat([gradient, deviations * _random(len(deviations))]))
        new, errors = solved[:-PROBES], solved[-PROBES:]
        error = errors.square().sum() / PROBES
        return new if error <= self.tolerance**2 * new.square().sum() else None

    def _is_hopeless(self) -> bool:
        """Whether the error would be too large if the gradients of outputs had nothing to do with the input."""
        probes = _random(len(self.squares))
        errors = self._solved(RELATIVE_VARIANCE**0.5 * self.squares.sqrt() * probes)
        new = torch.linalg.solve_triangular(self.factor.mT, probes.mT, upper=True)
        return bool(errors.square().sum() > (2 * self.tolerance) ** 2 * new.square().sum())

    def _solved(self, rows: Tensor) -> Tensor:
        return torch.cholesky_solve(rows.mT, self.factor).mT

    def _zeros(self) -> Tensor:
        outputs, features = self.output_gradient.shape[1], len(self.squares)
        return self.squares.new_zeros(outputs, features)


def _squared(tensor: Tensor) -> Tensor:
    """The sum of all squares, in float64 and without a copy; infinite where that of float32 numbers is."""
    if tensor.dtype == torch.float32 and tensor.is_contiguous():
        flat = tensor.view(-1)
        return flat.dot(flat).to(torch.float64)  # ``vector_norm`` is slower
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dtype=dtype).to(torch.float64).square()


@functools.lru_cache(maxsize=32)
def _random(features: int) -> Tensor:
    """The same normal numbers each time, ``(PROBES, features)``."""
    return torch.randn(PROBES, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
