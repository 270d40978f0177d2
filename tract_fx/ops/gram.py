"""``tract_fx::patch_gram``: ``X^T X`` of the patches of an input, in float64.

Float64 is not a luxury. Of raw 0..255 pixels the Gram matrix has a condition number of 1e6 to 1e8 even with ``lam``
added, and in float32 it is not even positive semi-definite. Products of two float32 numbers are exact in float64 and
squares of 1e30 do not overflow, so that one code path is right for every scale of inputs.

Three algorithms give the same sums on a CPU: the *plain* one writes blocks of the matrix ``X`` and multiplies them. Where
patches overlap, those of :mod:`tract_fx.ops.cpu.toeplitz` and :mod:`tract_fx.ops.cpu.spectral` never write ``X`` and need
fewer products. On a GPU there are the kernels of :mod:`tract_fx.ops.gpu.kernels`, and the plain way where they cannot run.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import PartialSums, Scratch, boxes, mirror_upper_, row_steps, rows_at_once
from tract_fx.ops.cpu.selection import select_algorithm
from tract_fx.ops.cpu.spectral import spectral_sums
from tract_fx.ops.cpu.toeplitz import add_images, assemble, axes_of, new_sums
from tract_fx.ops.gpu.launch import is_triton_usable, triton_gram
from tract_fx.ops.gpu.verification import are_kernels_right
from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["gram", "patch_gram"]

# Elements of the padded copy of some images, in the dtype of the input.
PADDED_ELEMENTS = 2**22


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
    geometry = PatchGeometry(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups)
    features = geometry.features(input.shape[1])
    if input.numel() and is_triton_usable(input) and are_kernels_right(input):
        return triton_gram(input, geometry)
    result = input.new_zeros((groups, features, features), dtype=torch.float64)
    if input.numel() == 0:
        return result
    # Another GPU runs neither well as many small products as one large one.
    way = select_algorithm(input.shape, geometry) if input.device.type == "cpu" else "plain"
    write = {"plain": _write_plain, "toeplitz": _write_toeplitz, "spectral": _write_spectral}[way]
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
    return patch_gram(
        input,
        list(geometry.kernel_size),
        list(geometry.stride),
        list(geometry.padding),
        list(geometry.dilation),
        geometry.groups,
    )


def _write_plain(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by writing blocks of ``X``."""
    geometry = dataclasses.replace(geometry, groups=1)
    scratch = Scratch()
    sums = PartialSums(matrix.add_, torch.zeros_like(matrix))
    limit = rows_at_once(input, len(matrix))
    for images in _padded_chunks(input):
        view = patch_view(pad(images, geometry), geometry)[0]
        split = 1 + len(geometry.kernel_size)
        for box in boxes(view.shape[split:], limit):
            columns = _columns(view[(..., *box)], split, scratch)
            part = sums.part_for(columns.shape[1])
            for rows in row_steps(len(matrix)):
                part[rows, rows.start :].addmm_(columns[rows], columns[rows.start :].T)
    sums.flush()
    mirror_upper_(matrix)


def _columns(view: Tensor, split: int, scratch: Scratch) -> Tensor:
    """Some columns of ``X^T`` in float64; the first ``split`` dimensions of ``view`` are features."""
    if view.ndim == 2:
        # Rows of a linear layer are contiguous already, and to transpose them costs more than a transposed product.
        return scratch.fill(view.T).T
    return scratch.fill(view).flatten(split).flatten(0, split - 1)


def _write_toeplitz(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by :mod:`tract_fx.ops.cpu.toeplitz`."""
    axes = axes_of(geometry, input.shape[2:])
    sums = new_sums(input, axes)
    scratch = Scratch(), Scratch()
    for images in _padded_chunks(input):
        add_images(sums, images, axes, scratch)
    matrix.copy_(assemble(sums, axes, input.shape[1]))


def _write_spectral(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by :mod:`tract_fx.ops.cpu.spectral`."""
    axes = axes_of(geometry, input.shape[2:])
    matrix.copy_(assemble(spectral_sums(input, axes), axes, input.shape[1]))


def _padded_chunks(input: Tensor) -> tuple[Tensor, ...]:
    """``input`` in parts of which a padded copy is small; one image where that is not."""
    return input.split(max(1, PADDED_ELEMENTS // input[0].numel()))
