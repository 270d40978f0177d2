"""Gram matrices from blocks of the matrix ``X`` of patches, or of patches of several neighbouring outputs at once.

A *tile* of ``t`` neighbouring outputs sees ``k + (t - 1) s`` pixels of an axis, fewer than the ``t k`` that its patches
hold when the kernel ``k`` is larger than the stride ``s``. The Gram matrix ``T`` of these larger patches, which are
those of a convolution with stride ``t s``, has all products that the small ones need::

    gram[k, k'] = sum_{i < t} T[s i + k, s i + k']

Less is written, and a product of wider matrices is faster: a few times in all where features are few. An entry is still
a sum of its own terms, so that accuracy is that of the plain product and a NaN reaches exactly the entries it belongs
to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import PartialSums, Scratch, boxes, mirror_upper_, padded_chunks, row_steps, rows_at_once
from tract_fx.ops.cpu.selection import select_tile
from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["write_plain", "write_tiled"]


def write_plain(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by writing blocks of ``X``; on any device."""
    geometry = dataclasses.replace(geometry, groups=1)
    tile = select_tile(tuple(input.shape), geometry) if input.device.type == "cpu" else ()
    if math.prod(tile) == 1:
        _write_blocks(matrix, input, geometry)
    else:
        write_tiled(matrix, input, geometry, tile)


def write_tiled(matrix: Tensor, input: Tensor, geometry: PatchGeometry, tile: Sequence[int]) -> None:
    """:func:`write_plain` by tiles of so many outputs, which divide the outputs along every axis."""
    large = geometry.tiled(tile)
    size = large.features(input.shape[1])
    products = matrix.new_zeros(size, size)
    _write_blocks(products, input, large)
    features = input.shape[1], *large.kernel_size
    products = products.view(features * 2)
    for axis, (count, stride, kernel) in enumerate(zip(tile, geometry.stride, geometry.kernel_size, strict=True), 1):
        starts = range(0, count * stride, stride)
        parts = [products.narrow(axis, i, kernel).narrow(axis + len(features), i, kernel) for i in starts]
        products = sum(parts[1:], parts[0])
    matrix.copy_(products.reshape(matrix.shape))


def _write_blocks(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    scratch = Scratch()
    sums = PartialSums(matrix.add_, torch.zeros_like(matrix))
    limit = rows_at_once(input, len(matrix))
    for images in padded_chunks(input):
        view = patch_view(pad(images, geometry), geometry)[0]
        split = 1 + len(geometry.kernel_size)
        for box in boxes(view.shape[split:], limit):
            columns = scratch.columns(view[(..., *box)], split)
            part = sums.part_for(columns.shape[1])
            for rows in row_steps(len(matrix)):
                part[rows, rows.start :].addmm_(columns[rows], columns[rows.start :].T)
    sums.flush()
    mirror_upper_(matrix)
