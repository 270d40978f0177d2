"""Plain weight gradients ``dZ^T X`` from blocks of the matrix ``X`` of patches, in float64 or in float32.

Float32 does not always do. The closed form multiplies ``G`` by the inverse of a matrix with a condition number of 1e3 for
standardised photographs and of 1e7 for raw pixels, and what is left of the largest entries of ``G`` is small: errors of
float32 sums come out 100 to 100,000 times larger. Sums of products of two float32 numbers in float64 leave 1e-12, and as one
product of large matrices they take about as long as the float32 gradient of a convolution of three channels does.

Where the inverse amplifies little, sums in float32 of :data:`ROWS_OF_SUM` rows are exact enough and cost less; a few of them
are added in float32, all others in float64. :mod:`tract_fx.ops.primal` decides. The error of such sums is modelled as in
:mod:`tract_fx.ops.cpu.product`: each partial sum is rounded by a random part of at most ``u = 2^-24``. Of ``b`` rows with
the sum ``S``, the error has a variance of about ``u^2 / 3 * b / 2 * S^2``. To add ``k`` of them makes ``b + k^2`` of ``b``:
``k`` in its place, for a square that is at most ``k`` times the sum of theirs. Where rows cancel, partial sums are larger
than what is left: the sum of the squares of the products then takes the place of ``S^2``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import Scratch, boxes, padded_chunks, rows_at_once
from tract_fx.ops.cpu.product import UNIT_ROUNDOFF
from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["RELATIVE_VARIANCE", "ROWS_OF_SUM", "add_gradient", "add_single_gradient"]

# Rows that a product adds in float32, and how many products are added before the sum goes to float64.
ROWS_OF_SUM = 512
SUMS_AT_ONCE = 8
# Elements of a block of float32 numbers: 1 MiB.
SINGLE_ELEMENTS = 2**18
# Of the error of such a sum, relative to its square.
RELATIVE_VARIANCE = UNIT_ROUNDOFF**2 / 3 * (ROWS_OF_SUM + SUMS_AT_ONCE**2) / 2


def add_gradient(result: Tensor, input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> None:
    """Add ``dZ^T X`` of one group to ``result``; on any device.

    Args:
        result: ``(m, n)`` in float64.
        input: ``(batch, channels, *spatial)``, the channels of the group.
        output_gradient: ``(batch, m, *output)``, of the group.
        geometry: how rows are taken from ``input``.
    """
    geometry = dataclasses.replace(geometry, groups=1)
    scratch = Scratch(), Scratch()
    limit = rows_at_once(input, sum(result.shape))
    images = padded_chunks(input)
    for part, gradients in zip(images, output_gradient.split(len(images[0])), strict=True):
        view = patch_view(pad(part, geometry), geometry)[0]
        outputs = gradients.transpose(0, 1)
        split = 1 + len(geometry.kernel_size)
        for box in boxes(outputs.shape[1:], limit):
            columns = scratch[0].columns(view[(..., *box)], split)
            result.addmm_(scratch[1].columns(outputs[:, *box], 1), columns.T)
        del view  # and with it the padded images, before there are others


def add_single_gradient(result: Tensor, input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    """:func:`add_gradient` from sums in float32, of numbers that are neither huge nor tiny; on a CPU.

    Returns:
        ``(n,)`` in float64: the squares of all sums, added over them and over outputs.
    """
    geometry = dataclasses.replace(geometry, groups=1)
    outputs_first = result.shape[0] >= result.shape[1]  # a product is faster whose left factor is the longer one
    total = torch.zeros_like(result if outputs_first else result.T, memory_format=torch.contiguous_format)
    squares = result.new_zeros(result.shape[1])
    limit = min(SUMS_AT_ONCE, max(1, SINGLE_ELEMENTS // sum(result.shape) // ROWS_OF_SUM)) * ROWS_OF_SUM
    images = padded_chunks(input)
    for part, gradients in zip(images, output_gradient.split(len(images[0])), strict=True):
        view = patch_view(pad(part, geometry), geometry)[0]
        outputs = gradients.transpose(0, 1)
        split = 1 + len(geometry.kernel_size)
        for box in boxes(outputs.shape[1:], limit):
            columns = view[(..., *box)].to(torch.float32).flatten(split).flatten(0, split - 1)
            rows = outputs[:, *box].to(torch.float32).flatten(1)
            for sums in _sums(rows, columns) if outputs_first else _sums(columns, rows):
                total.add_(sums[0] if len(sums) == 1 else sums.sum(0))
                squares.add_(sums.square_().sum((0, 1 if outputs_first else 2)))
        del view
    result.add_(total if outputs_first else total.T)
    return squares


def _sums(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Products ``(sums, k, l)`` of ``(k, rows)`` and ``(l, rows)``, summed over :data:`ROWS_OF_SUM` rows or fewer."""
    whole = first.shape[1] // ROWS_OF_SUM * ROWS_OF_SUM
    if whole:
        left, right = (tensor[:, :whole].unflatten(1, (-1, ROWS_OF_SUM)) for tensor in (first, second))
        yield left.transpose(0, 1) @ right.permute(1, 2, 0)
    if whole < first.shape[1]:
        yield (first[:, whole:] @ second[:, whole:].T)[None]
