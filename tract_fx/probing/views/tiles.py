"""Weights of a layer as pictures: images where they are images, curves where they are not.

This module does not draw: it computes arrays of pixels from ``(count, n)`` vectors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tract_fx.ops.patches import PatchGeometry

__all__ = ["Tiles", "mosaic", "tiles_of"]

RGB = 3
CHANNELS_SHOWN = 8
# Linear layers whose features make a square of at least this side are taken for grey images.
SMALLEST_SQUARE = 6
# Pictures of several parts are enlarged, so that a gap can be finer than a pixel.
ENLARGED = 4
# Share of the weights within the range of colours: a few large ones would turn all others grey.
WITHIN_RANGE = 0.995


class Tiles(NamedTuple):
    """Vectors as pictures.

    Attributes:
        pixels: ``(count, height, width, 3)`` in 0..1, or ``(count, height, width)`` in -1..1 for a diverging map, NaN in
            gaps.
        explanation: how to read them.
        parts: whether each is made of several images.
    """

    pixels: Tensor
    explanation: str
    parts: bool = False

    @property
    def in_colour(self) -> bool:
        """Whether they are RGB."""
        return self.pixels.dim() == 4


def tiles_of(vectors: Tensor, geometry: PatchGeometry, *, each: bool) -> Tiles | None:
    """Pictures of vectors ``(count, n)`` with features ordered as in ``weight.flatten(1)``.

    Args:
        vectors: filters of one group, or eigenvectors.
        geometry: of the layer.
        each: whether every vector has a range of its own, or all share one.

    Returns:
        None where vectors are better drawn as curves: one-dimensional convolutions, and linear layers but those whose
        features make a square.
    """
    dims = len(geometry.kernel_size)
    if dims == 0:
        side = math.isqrt(vectors.shape[1])
        if side * side != vectors.shape[1] or side < SMALLEST_SQUARE:
            return None
        images = vectors.unflatten(1, (1, side, side))
        what = f"features shown as the pixels of a {side}x{side} image"
    elif dims == 1:
        return None
    else:
        images = vectors.unflatten(1, (-1, *geometry.kernel_size))
        what = ""
    images = _scaled(images.double(), each)
    channels = images.shape[1]
    if dims == 3:  # frames side by side
        images = _one_picture(images, 2, columns=images.shape[2])
        what = "frames from left to right"
    if channels == RGB:
        colours = (0.5 + images.permute(0, 2, 3, 1) / 2).nan_to_num(1.0)
        return Tiles(colours, _joined(what, "RGB around grey"), parts=dims == 3)
    if channels > 1:
        column = _one_picture(images[:, :CHANNELS_SHOWN], 1, columns=1)
        some = (
            f"the first {CHANNELS_SHOWN} of {channels} channels"
            if channels > CHANNELS_SHOWN
            else f"{channels} channels"
        )
        return Tiles(column, _joined(what, f"{some} from top to bottom"), parts=True)
    return Tiles(images[:, 0], what, parts=dims == 3)


def mosaic(pictures: Tensor, columns: int, gap: int, above: int = 0) -> Tensor:
    """Arrange pictures in rows on one canvas.

    Args:
        pictures: ``(count, height, width, ...)``, floating-point.
        columns: number of pictures in a row.
        gap: pixels between two pictures.
        above: additional pixels above each picture, for a label.

    Returns:
        ``(rows * (height + gap + above) - gap, columns * (width + gap) - gap, ...)``, NaN where there is no picture.
    """
    count, height, width, *others = pictures.shape
    rows = math.ceil(count / columns)
    size = rows * (height + gap + above) - gap, columns * (width + gap) - gap
    canvas = pictures.new_full((*size, *others), torch.nan)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = row * (height + gap + above) + above, column * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _one_picture(images: Tensor, dim: int, columns: int) -> Tensor:
    """Replace the images ``(..., height, width)`` along ``dim`` by one enlarged picture of all of them."""
    images = images.repeat_interleave(ENLARGED, -1).repeat_interleave(ENLARGED, -2)
    parts = images.movedim((dim, -2, -1), (0, 1, 2))
    return mosaic(parts, columns, gap=1).movedim((0, 1), (-2, -1))


def _scaled(images: Tensor, each: bool) -> Tensor:
    sizes = images.nan_to_num(0.0, 0.0, 0.0).abs()
    scale = sizes.flatten(1).amax(1) if each else _quantile(sizes.flatten(), WITHIN_RANGE)[None]
    scale = torch.where(scale > 0, scale, 1.0).reshape(-1, *[1] * (images.dim() - 1))
    return (images.nan_to_num(0.0, 0.0, 0.0) / scale).clamp(-1, 1)


def _quantile(values: Tensor, share: float) -> Tensor:
    """``torch.quantile`` takes no more than sixteen million values."""
    return values.kthvalue(max(1, math.ceil(share * values.numel()))).values


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))
