"""Gram matrices from blocks of the matrix ``X`` of patches."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import PartialSums, Scratch, boxes, mirror_upper_, padded_chunks, row_steps, rows_at_once
from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["write_plain"]


def write_plain(matrix: Tensor, input: Tensor, geometry: PatchGeometry) -> None:
    """``matrix = X^T X`` of one group, ``input`` being its channels, by writing blocks of ``X``; on any device."""
    geometry = dataclasses.replace(geometry, groups=1)
    scratch = Scratch()
    sums = PartialSums(matrix.add_, torch.zeros_like(matrix))
    limit = rows_at_once(input, len(matrix))
    for images in padded_chunks(input):
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
    if view.ndim == 2 and view.stride(1) != 1:
        # Rows of a linear layer are contiguous already, and to transpose them costs more than a transposed product.
        return scratch.fill(view.T).T
    return scratch.fill(view).flatten(split).flatten(0, split - 1)
