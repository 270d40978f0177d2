"""The dual form of TrAct's gradient (equation 6 of the paper), for layers with fewer rows than features.

On a CPU it is one operator, ``tract_fx::dual_gradient``, because an operator may look at values: it takes the last and
largest product in float32 where that is exact enough (:mod:`tract_fx.ops.cpu.product`). On other devices, looking at a value
would wait for the device, and everything is in float64; but for that product on GPUs on which float64 is slow, where the
kernel for ``dZ^T X`` takes it, with the coefficients in the place of ``dZ``.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tract_fx.ops.cpu.plain import write_plain
from tract_fx.ops.cpu.product import coefficient_product
from tract_fx.ops.gpu.launch import Device, is_triton_usable
from tract_fx.ops.gradient import exact_gradient
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches
from tract_fx.ops.solve import factor_and_solve, regularise, scale_down, scaled_lam

__all__ = ["dual_gradient"]


def dual_gradient(
    input: Tensor,
    output_gradient: Tensor,
    rows: int,
    lam: Tensor | float,
    geometry: PatchGeometry,
    *,
    relative: bool = False,
) -> Tensor:
    """``((X X^T / r + lam I)^-1 dZ)^T X``: the same gradient from an ``r x r`` system for each group.

    Args:
        input: what the layer saw, ``(batch, channels, *spatial)`` or ``(r, n)``.
        output_gradient: ``dZ``, ``(groups, r, m)``.
        rows: ``r``.
        lam: positive number or tensor with one element, or with one for each group.
        geometry: how rows are taken from ``input``.
        relative: whether ``lam`` is in units of the mean eigenvalue of ``C``, see :func:`~tract_fx.ops.solve.scaled_lam`.

    Returns:
        ``(groups, m, n)``; the plain ``dZ^T X`` for a group whose factorisation fails. On a CPU it is float64 for an input
        in float64, and else float32 with a relative error of at most 1e-5; on other devices it is float64.
    """
    if not _is_on_cpu(input):
        return _in_float64(input, output_gradient, rows, lam, geometry, relative)
    if not isinstance(lam, Tensor):
        lam = torch.full((), lam, dtype=torch.float64)
    return _on_cpu(input, output_gradient, rows, lam, *geometry.arguments(), relative)


@torch.library.custom_op("tract_fx::dual_gradient", mutates_args=())
def _on_cpu(
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
    input, scale = scale_down(input)
    patches = unfold_patches(input, geometry)
    wide = output_gradient.to(torch.float64)
    lams = lam.reshape(-1).expand(groups)
    found = [
        _group_gradient(X, dZ, rows, each, scale, relative) for X, dZ, each in zip(patches, wide, lams, strict=True)
    ]
    return found[0][None] if len(found) == 1 else torch.stack(found)


@_on_cpu.register_fake
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
    shape = groups, output_gradient.shape[2], geometry.features(input.shape[1])
    return input.new_empty(shape, dtype=torch.promote_types(input.dtype, torch.float32))


def _group_gradient(
    patches: Tensor, output_gradient: Tensor, rows: int, lam: Tensor, scale: Tensor | float, relative: bool
) -> Tensor:
    """The gradient of one group from ``X / scale``, ``(r, n)``, and ``dZ``, ``(r, m)`` in float64."""
    kernel = output_gradient.new_zeros(len(patches), len(patches))
    if patches.numel():
        write_plain(kernel, patches.T, LINEAR)
    factor, info = _factorisation(kernel[None] / rows, lam, scale, patches.shape[1] if relative else None)
    if info != 0:
        product = output_gradient.T @ patches.to(torch.float64) * scale
        return product.to(torch.promote_types(patches.dtype, torch.float32))
    # Many right-hand sides are faster multiplied with the inverse, and as exact, because it is rounded to float64.
    many = output_gradient.shape[1] >= len(patches)
    coefficients = (
        torch.cholesky_inverse(factor) @ output_gradient if many else torch.cholesky_solve(output_gradient, factor)
    )
    product = coefficient_product(coefficients, patches, kernel)
    return product if patches.dtype != torch.float64 else product / scale


def _factorisation(
    matrix: Tensor, lam: Tensor, scale: Tensor | float, relative_to_features: int | None
) -> tuple[Tensor, Tensor]:
    """The factor of the regularised ``(1, r, r)``, and whether it failed; the matrix is not kept."""
    factor, info = torch.linalg.cholesky_ex(regularise(matrix, scaled_lam(matrix, lam, scale, relative_to_features)))
    return factor[0], info[0]


def _in_float64(
    input: Tensor, output_gradient: Tensor, rows: int, lam: Tensor | float, geometry: PatchGeometry, relative: bool
) -> Tensor:
    """:func:`dual_gradient` from operators that a compiler sees, without a look at any value."""
    input, scale = scale_down(input)
    patches = unfold_patches(input, geometry)
    # The Gram matrix of X^T, whose rows are X's columns: groups take the place of grouped channels.
    kernel = torch.stack([gram(columns, LINEAR)[0] for columns in patches.transpose(1, 2).unbind()]) / rows
    lam = scaled_lam(kernel, lam, scale, patches.shape[2] if relative else None)
    wide = output_gradient.to(torch.float64).transpose(1, 2)
    coefficients, info = factor_and_solve(regularise(kernel, lam), wide)
    solved = (info == 0)[:, None, None]
    coefficients = torch.where(solved, coefficients, wide)
    multiply = _multiplied_in_float32 if _is_float64_slow(patches) else _multiplied
    product = multiply(coefficients, patches)
    return torch.where(solved, product / scale, product * scale)


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _is_float64_slow(patches: Tensor) -> bool:
    """Whether float32 is much faster than float64, for narrower patches, and the kernels know how to use it."""
    usable = patches.dtype != torch.float64 and patches.device.type == "cuda" and torch.cuda.is_available()
    return usable and is_triton_usable(patches) and not Device.of(patches).has_fast_float64


def _multiplied(coefficients: Tensor, patches: Tensor) -> Tensor:
    """``(groups, m, r) @ (groups, r, n)`` in float64."""
    return coefficients @ patches.to(torch.float64)


def _multiplied_in_float32(coefficients: Tensor, patches: Tensor) -> Tensor:
    """The same with products of float32 numbers, see :mod:`tract_fx.ops.gpu.kernels` for how they are added.

    Powers of two keep the coefficients of each output in the range of float32.
    """
    smallest, largest = 2.0**-1000, 2.0**1000
    unit = torch.exp2(torch.ceil(torch.log2(coefficients.abs().amax(2, keepdim=True).clamp(smallest, largest))))
    outputs = (coefficients / unit).to(torch.float32).permute(2, 0, 1).flatten(1)
    rows = patches.to(torch.float32).transpose(0, 1).flatten(1)
    return exact_gradient(rows, outputs, dataclasses.replace(LINEAR, groups=len(patches))) * unit
