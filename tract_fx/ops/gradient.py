"""``tract_fx::gram_and_gradient`` and ``tract_fx::weight_gradient``: the sums over rows that the primal form needs.

``G = dZ^T X`` is not taken from the backward pass of the layer. There it is rounded to the dtype of the layer, and summed in
float32, before the inverse multiplies what was lost by up to the condition number of the covariance. It is computed here
instead, from the operands that the layer saw, and the plain weight gradient is not computed at all.

On a GPU one kernel of :mod:`tract_fx.ops.gpu.kernels` gives both sums. Elsewhere, and where the kernels cannot run, ``G`` is
summed in float64 by :mod:`tract_fx.ops.cpu.gradient`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tract_fx.ops.cpu.gradient import add_gradient
from tract_fx.ops.gpu.launch import is_triton_usable
from tract_fx.ops.gpu.verification import checked_sums
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry

__all__ = ["exact_gradient", "gram_and_gradient", "sums_of", "weight_gradient"]


@torch.library.custom_op("tract_fx::gram_and_gradient", mutates_args=())
def gram_and_gradient(
    input: Tensor,
    output_gradient: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """``X^T X`` and ``dZ^T X`` of the patches that a convolution multiplies.

    Args:
        input: ``(batch, channels, *spatial)`` of a floating-point dtype; ``(rows, features)`` when the lists are empty.
        output_gradient: ``(batch, groups * m, *output)``, ``(rows, groups * m)`` when the lists are empty.
        kernel_size: one entry for each spatial dimension, as the other three.
        stride: as in ``torch.nn.functional.conv2d``.
        padding: as in ``torch.nn.functional.conv2d``; zeros, on both sides.
        dilation: as in ``torch.nn.functional.conv2d``.
        groups: number of groups of channels.

    Returns:
        The first as of :func:`~tract_fx.ops.gram.patch_gram`, the second ``(groups, m, n)`` in float64.
    """
    geometry = PatchGeometry.from_arguments(kernel_size, stride, padding, dilation, groups)
    if (sums := _sums_of_kernels(input, output_gradient, geometry, gram=True)) is not None:
        covariance_sums, gradient = sums
        return covariance_sums, gradient
    return gram(input, geometry), _gradient(input, output_gradient, geometry)


@gram_and_gradient.register_fake
def _(
    input: Tensor,
    output_gradient: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    features = input.shape[1] // groups * math.prod(kernel_size)
    outputs = output_gradient.shape[1] // groups
    return (
        input.new_empty((groups, features, features), dtype=torch.float64),
        input.new_empty((groups, outputs, features), dtype=torch.float64),
    )


@torch.library.custom_op("tract_fx::weight_gradient", mutates_args=())
def weight_gradient(
    input: Tensor,
    output_gradient: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """The second result of :func:`gram_and_gradient` alone, for a covariance that comes from elsewhere."""
    geometry = PatchGeometry.from_arguments(kernel_size, stride, padding, dilation, groups)
    if (sums := _sums_of_kernels(input, output_gradient, geometry, gram=False)) is not None:
        return sums[0]
    return _gradient(input, output_gradient, geometry)


@weight_gradient.register_fake
def _(
    input: Tensor,
    output_gradient: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    features = input.shape[1] // groups * math.prod(kernel_size)
    return input.new_empty((groups, output_gradient.shape[1] // groups, features), dtype=torch.float64)


def sums_of(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> tuple[Tensor, Tensor]:
    """:func:`gram_and_gradient` with a geometry for its integer arguments."""
    return gram_and_gradient(input, output_gradient, *geometry.arguments())


def exact_gradient(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    """:func:`weight_gradient` with a geometry for its integer arguments."""
    return weight_gradient(input, output_gradient, *geometry.arguments())


def _sums_of_kernels(
    input: Tensor, output_gradient: Tensor, geometry: PatchGeometry, *, gram: bool
) -> tuple[Tensor, ...] | None:
    """What the kernels give where there is something to add, on a GPU and in one dtype."""
    usable = (
        input.numel() > 0
        and output_gradient.numel() > 0
        and input.dtype == output_gradient.dtype
        and is_triton_usable(input)
    )
    return checked_sums(input, output_gradient, geometry, gram=gram) if usable else None


def _gradient(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    groups, outputs = geometry.groups, output_gradient.shape[1] // geometry.groups
    result = input.new_zeros((groups, outputs, geometry.features(input.shape[1])), dtype=torch.float64)
    if input.numel() and output_gradient.numel():
        inputs = input.unflatten(1, (groups, -1)).unbind(1)
        gradients = output_gradient.unflatten(1, (groups, -1)).unbind(1)
        for matrix, channels, gradient in zip(result, inputs, gradients, strict=True):
            add_gradient(matrix, channels, gradient, geometry)
    return result
