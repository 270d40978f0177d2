"""Weights of a layer as pictures: images where they are images, curves where they are not.

Nothing here draws: this is the arithmetic between ``(count, n)`` vectors and arrays of pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tract_fx.ops.patches import PatchGeometry

__all__ = ["Tiles", "tiles_of"]

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
        what = f"features taken for pixels of a {side}x{side} image"
    elif dims == 1:
        return None
    else:
        images = vectors.unflatten(1, (-1, *geometry.kernel_size))
        what = ""
    images = _scaled(images.double(), each)
    channels = images.shape[1]
    if dims == 3:  # frames side by side
        images = _side_by_side(images, 2, along=3)
        what = "frames from left to right"
    if channels == RGB:
        colours = (0.5 + images.permute(0, 2, 3, 1) / 2).nan_to_num(1.0)
        return Tiles(colours, _joined(what, "RGB around grey"), parts=dims == 3)
    if channels > 1:
        column = _side_by_side(images[:, :CHANNELS_SHOWN], 1, along=1)
        some = (
            f"the first {CHANNELS_SHOWN} of {channels} channels"
            if channels > CHANNELS_SHOWN
            else f"{channels} channels"
        )
        return Tiles(column, _joined(what, f"{some} from top to bottom"), parts=True)
    return Tiles(images[:, 0], what, parts=dims == 3)


def _side_by_side(images: Tensor, dim: int, along: int) -> Tensor:
    """The images along ``dim`` in a row (or column) along a dimension of each, enlarged, with gaps of NaN."""
    images = images.repeat_interleave(ENLARGED, -1).repeat_interleave(ENLARGED, -2)
    parts = []
    for image in images.unbind(dim):
        parts += [image, torch.full_like(image.narrow(along, 0, 1), torch.nan)]
    return torch.cat(parts[:-1], dim=along)


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
