"""Plain weight gradients ``dZ^T X`` from blocks of the matrix ``X`` of patches, in float64.

Float32 would not do. The closed form multiplies ``G`` by the inverse of a matrix with a condition number of 1e3 for
standardised photographs and of 1e7 for raw pixels, and what is left of the largest entries of ``G`` is small: errors of
float32 sums come out 100 to 100,000 times larger. Sums of products of two float32 numbers in float64 leave 1e-12, and as one
product of large matrices they take about as long as the float32 gradient of a convolution of three channels does.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from tract_fx.ops.cpu.blocks import Scratch, boxes, padded_chunks, rows_at_once
from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["add_gradient"]


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
            columns = _columns(view[(..., *box)], split, scratch[0])
            result.addmm_(_columns(outputs[:, *box], 1, scratch[1]), columns.T)


def _columns(view: Tensor, split: int, scratch: Scratch) -> Tensor:
    """Some columns of ``X^T`` or ``dZ^T`` in float64; the first ``split`` dimensions of ``view`` are those of the rows."""
    if view.ndim == 2 and view.stride(1) != 1:
        # Rows of a linear layer are contiguous already, and to transpose them costs more than a transposed product.
        return scratch.fill(view.T).T
    return scratch.fill(view).flatten(split).flatten(0, split - 1)
