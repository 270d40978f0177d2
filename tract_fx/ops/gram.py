"""``tract_fx::patch_gram``: ``X^T X`` of the patches of an input, in float64.

Float64 is not a luxury. Of raw 0..255 pixels the Gram matrix has a condition number of 1e6 to 1e8 even with ``lam``
added, and in float32 it is not even positive semi-definite. Products of two float32 numbers are exact in float64 and
squares of 1e30 do not overflow, so that one code path is right for every scale of inputs.

Three algorithms give the same sums on a CPU: that of :mod:`tract_fx.ops.cpu.plain` writes blocks of the matrix ``X``
and multiplies them. Where patches overlap, those of :mod:`tract_fx.ops.cpu.toeplitz` and
:mod:`tract_fx.ops.cpu.spectral` never write ``X`` and need fewer products. On a GPU there are the kernels of
:mod:`tract_fx.ops.gpu.kernels`, and the plain algorithm where they cannot run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import Scratch, padded_chunks
from tract_fx.ops.cpu.plain import write_plain
from tract_fx.ops.cpu.selection import select_algorithm
from tract_fx.ops.cpu.spectral import spectral_sums
from tract_fx.ops.cpu.toeplitz import add_images, assemble, axes_of, new_sums
from tract_fx.ops.gpu.launch import is_triton_usable
from tract_fx.ops.gpu.verification import checked_sums
from tract_fx.ops.patches import PatchGeometry

__all__ = ["gram", "patch_gram"]


@torch.library.custom_op("tract_fx::patch_gram", mutates_args=())
def patch_gram(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Gram matrix of the patches that a convolution multiplies.

    Args:
        input: ``(batch, channels, *spatial)`` of a floating-point dtype; ``(rows, features)`` when the lists are empty.
        kernel_size: one entry for each spatial dimension, as the other three.
        stride: as in ``torch.nn.functional.conv2d``.
        padding: as in ``torch.nn.functional.conv2d``; zeros, on both sides.
        dilation: as in ``torch.nn.functional.conv2d``.
        groups: number of groups of channels.

    Returns:
        ``(groups, n, n)`` in float64 with ``n = channels / groups * prod(kernel_size)``: the sum over rows ``X^T X``,
        symmetric to the last bit. The paper's covariance ``C`` is this divided by the number of rows.
    """
    geometry = PatchGeometry.from_arguments(kernel_size, stride, padding, dilation, groups)
    features = geometry.features(input.shape[1])
    if input.numel() and is_triton_usable(input) and (sums := checked_sums(input, None, geometry)) is not None:
        return sums[0]
    result = input.new_zeros((groups, features, features), dtype=torch.float64)
    if input.numel() == 0:
        return result
    # Another GPU runs neither well as many small products as one large one.
    algorithm = select_algorithm(tuple(input.shape), geometry) if input.device.type == "cpu" else "plain"
    write = {"plain": write_plain, "toeplitz": _write_toeplitz, "spectral": _write_spectral}[algorithm]
    for matrix, channels in zip(result, input.unflatten(1, (groups, -1)).unbind(1), strict=True):
        write(matrix, channels, geometry)
    return result


@patch_gram.register_fake
def _(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    features = input.shape[1] // groups * math.prod(kernel_size)
    return input.new_empty((groups, features, features), dtype=torch.float64)


def gram(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """:func:`patch_gram` with a geometry for its integer arguments."""
    return patch_gram(input, *geometry.arguments())


def _write_toeplitz(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by :mod:`tract_fx.ops.cpu.toeplitz`."""
    axes = axes_of(geometry, input.shape[2:])
    sums = new_sums(input, axes)
    scratch = Scratch(), Scratch()
    for images in padded_chunks(input):
        add_images(sums, images, axes, scratch)
    matrix.copy_(assemble(sums, axes, input.shape[1]))


def _write_spectral(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by :mod:`tract_fx.ops.cpu.spectral`."""
    axes = axes_of(geometry, input.shape[2:])
    matrix.copy_(assemble(spectral_sums(input, axes), axes, input.shape[1]))
