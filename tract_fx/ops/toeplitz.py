"""Gram matrices of overlapping patches from products of shifted images.

Notation for one spatial dimension; the others are alike. Write an offset in the kernel as
``k = stride * block + phase`` with ``phase < stride``. What the patch of output ``o`` holds at ``k`` is a pixel of a
*phase image*, which has every ``stride``-th pixel of the padded input::

    patch[o][k] = padded[stride * o + k] = image[phase][o + block]

A sum over outputs of two such values depends on the phases, on the displacement ``d = block' - block`` and, through the
window that the sum runs over, on ``block``::

    gram[k, k'] = sum_{u = block}^{block + outputs - 1}  image[phase][u] * image[phase'][u + d]

All windows share the pixels in the middle, which are nearly all; they are multiplied once for each displacement instead
of once for each pair of offsets. A pixel near an end lies in some of the windows; such pixels have products of their
own, which are added to those windows. Nothing is subtracted: an entry is a sum of its own terms, as accurate as in the
plain product, and a NaN reaches exactly the entries it belongs to.

Layout: always three dimensions, frames, rows and columns; a convolution with fewer has leading ones of size 1. Phase
images are ``(channels, *phases, rows, frames, batch, columns)``, so that moving by a row is a slice of the flattened
positions; *lines* are the first four dimensions flattened. Blocks are ordered lexicographically, and only products of a
block with itself and with later ones are computed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tract_fx.ops.blocks import PartialSums, Scratch, boxes, mirror_upper_, rows_at_once
from tract_fx.ops.patches import PatchGeometry

__all__ = ["Axes", "Axis", "add_images", "assemble", "axes_of", "new_sums", "sums_shape"]


class Span(NamedTuple):
    """Positions of a phase image that lie in the same windows: those of the blocks in ``blocks``."""

    start: int
    stop: int
    blocks: slice

    def part(self, piece: slice, before: int = 0, after: int = 0) -> slice:
        """``piece``, counted from ``start``, as positions of the image, with a margin."""
        return slice(self.start + piece.start - before, self.start + piece.stop + after)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One spatial dimension of a convolution without dilation."""

    size: int = 1
    kernel: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def phases(self) -> int:
        """Number of phases that the kernel touches."""
        return min(self.stride, self.kernel)

    @property
    def blocks(self) -> int:
        """Number of blocks of ``stride`` offsets in the kernel, the last one perhaps incomplete."""
        return -(-self.kernel // self.stride)

    @property
    def reach(self) -> int:
        """Largest displacement between two blocks, in pixels of a phase image."""
        return self.blocks - 1

    @property
    def shifts(self) -> int:
        """Number of displacements of either sign."""
        return 2 * self.reach + 1

    @property
    def outputs(self) -> int:
        """Size of the convolution's output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def margins(self) -> tuple[int, int]:
        """Zeros before and after, so that every position has a neighbour at every displacement."""
        before = self.padding + self.stride * self.reach
        positions = self.outputs + 3 * self.reach
        return before, max(0, self.stride * (positions - 1) + self.phases - self.size - before)

    def spans(self) -> list[Span]:
        """All positions, split where they enter or leave a window ``block <= position < block + outputs``."""
        end = self.outputs + self.reach
        starts = sorted({*range(self.blocks), *range(self.outputs, end)})
        return [
            Span(start, stop, slice(max(0, start - self.outputs + 1), min(self.blocks, start + 1)))
            for start, stop in itertools.pairwise([*starts, end])
        ]


class Axes(NamedTuple):
    """The three axes of a convolution."""

    frames: Axis
    rows: Axis
    columns: Axis

    def lines(self, channels: int) -> int:
        """Number of phase images."""
        return channels * math.prod(axis.phases for axis in self)

    def displacements(self) -> Iterator[tuple[int, int]]:
        """Displacements along frames and rows that are lexicographically not negative."""
        for frame in range(self.frames.blocks):
            for row in range(-self.rows.reach if frame else 0, self.rows.blocks):
                yield frame, row

    def spans(self) -> Iterator[tuple[Span, Span, Span]]:
        """All positions, split by the windows they lie in."""
        return itertools.product(*(axis.spans() for axis in self))


def axes_of(geometry: PatchGeometry, spatial: Sequence[int]) -> Axes:
    """The axes of a geometry without dilation for an input with these spatial sizes."""
    axes = list(map(Axis, spatial, geometry.kernel_size, geometry.stride, geometry.padding))
    return Axes(*[Axis()] * (3 - len(axes)), *axes)


def sums_shape(axes: Axes, channels: int) -> tuple[int, ...]:
    """``(*blocks, frame displacement, row displacement, lines, column displacement, lines)``.

    Displacements along frames are not negative; the others are counted from ``-reach``.
    """
    lines = axes.lines(channels)
    blocks = [axis.blocks for axis in axes]
    return (*blocks, axes.frames.blocks, axes.rows.shifts, lines, axes.columns.shifts, lines)


def new_sums(input: Tensor, axes: Axes) -> Tensor:
    """Float64 zeros of :func:`sums_shape` for :func:`add_images` of an input ``(batch, channels, *spatial)``."""
    return input.new_zeros(sums_shape(axes, input.shape[1]), dtype=torch.float64)


def add_images(sums: Tensor, images: Tensor, axes: Axes, scratch: tuple[Scratch, Scratch]) -> None:
    """Add the products of some images to ``sums``.

    Args:
        sums: from :func:`new_sums`.
        images: ``(batch, channels, *spatial)`` of any floating-point dtype.
        axes: their axes.
        scratch: memory for the two factors of a product.
    """
    planes = _phase_images(images, axes)
    for frames, rows, columns in axes.spans():
        partial = PartialSums(sums[frames.blocks, rows.blocks, columns.blocks], torch.zeros_like(sums[0, 0, 0]))
        width, height = columns.stop - columns.start, rows.stop - rows.start
        elements = sums.shape[-3] * sums.shape[-2] * width * (height + 2 * axes.rows.reach) // height
        limit = max(1, rows_at_once(images, elements // width) // width)
        for batch, *piece in boxes([len(images), frames.stop - frames.start, height], limit):
            positions = width * math.prod(part.stop - part.start for part in (batch, *piece))
            products = partial.part_for(positions)
            _add_products(products, planes[..., batch, :], axes, (frames, rows, columns), piece, scratch)
        partial.flush()


def assemble(sums: Tensor, axes: Axes, channels: int) -> Tensor:
    """The Gram matrix from the sums over windows.

    Args:
        sums: from :func:`new_sums`, with all images added.
        axes: the axes.
        channels: number of channels of the images.

    Returns:
        ``(n, n)`` in float64, features ordered as in ``weight.flatten(1)``.
    """
    blocks, phases = [axis.blocks for axis in axes], [axis.phases for axis in axes]
    lines = sums.shape[-1]
    matrix = sums.new_zeros(*blocks, lines, *blocks, lines)
    for frame, row, column in itertools.product(*map(range, blocks)):
        window = sums[frame, row, column, : axes.frames.blocks - frame]
        window = window[:, axes.rows.reach - row : axes.rows.shifts - row]
        window = window[..., axes.columns.reach - column : axes.columns.shifts - column, :]
        matrix[frame, row, column, :, frame:] = window.permute(2, 0, 1, 3, 4)
    size = math.prod(blocks) * lines
    matrix = mirror_upper_(matrix.view(size, size))
    # Of both sides: (*blocks, channels, *phases) to (channels, block, phase, block, phase, block, phase).
    order = [3, 0, 4, 1, 5, 2, 6]
    matrix = matrix.view([*blocks, channels, *phases] * 2).permute(order + [7 + dim for dim in order])
    offsets = [channels] + [count * phase for count, phase in zip(blocks, phases, strict=True)]
    inside = [slice(None)] + [slice(axis.kernel) for axis in axes]
    features = channels * math.prod(axis.kernel for axis in axes)
    return matrix.reshape(offsets * 2)[tuple(inside * 2)].reshape(features, features)


def _phase_images(images: Tensor, axes: Axes) -> Tensor:
    """Strided view of the padded images; position 0 of an axis is at index ``reach``."""
    images = images.reshape(*images.shape[:2], *(axis.size for axis in axes))
    view = torch.nn.functional.pad(images, [margin for axis in reversed(axes) for margin in axis.margins])
    for dim, axis in enumerate(axes, start=2):
        view = view.unfold(dim, axis.phases, axis.stride)
    return view.permute(1, 5, 6, 7, 3, 2, 0, 4)


def _add_products(
    products: Tensor,
    planes: Tensor,
    axes: Axes,
    spans: tuple[Span, Span, Span],
    piece: list[slice],
    scratch: tuple[Scratch, Scratch],
) -> None:
    """Add the products of a piece of a span with itself displaced, for every displacement.

    Args:
        products: ``(frame displacement, row displacement, lines, column displacement, lines)``, as in ``sums``.
        planes: phase images of some of the batch.
        axes: the axes.
        spans: of frames, rows and columns.
        piece: the part of the first two spans.
        scratch: memory for the two factors.
    """
    frames, rows, columns = spans
    piece_frames, piece_rows = piece
    columns_reach, rows_reach = axes.columns.reach, axes.rows.reach
    every = slice(0, columns.stop - columns.start)
    fixed = _crop(planes, axes, frames.part(piece_frames), rows.part(piece_rows), columns.part(every))
    left = scratch[0].fill(fixed).flatten(4).flatten(0, 3)
    row_size = left.shape[1] // (piece_rows.stop - piece_rows.start)
    for frame in range(axes.frames.blocks):
        above = rows_reach if frame else 0
        moved = _crop(
            planes,
            axes,
            frames.part(piece_frames, -frame, frame),
            rows.part(piece_rows, above, rows_reach),
            columns.part(every, columns_reach, columns_reach),
        )
        shifted = moved.unfold(-1, every.stop, 1).movedim(-2, 0)
        right = scratch[1].fill(shifted).flatten(5).flatten(0, 4)
        for row in range(-above, axes.rows.blocks):
            first = columns_reach * len(left) if frame == row == 0 else 0
            start = (row + above) * row_size
            target = products[frame, row + rows_reach].flatten(1)[:, first:]
            target.addmm_(left, right[first:, start : start + left.shape[1]].T)


def _crop(planes: Tensor, axes: Axes, frames: slice, rows: slice, columns: slice) -> Tensor:
    """Positions of phase images, which start at ``-reach``."""
    sizes = zip((rows, frames, columns), (axes.rows, axes.frames, axes.columns), strict=True)
    row, frame, column = (slice(part.start + axis.reach, part.stop + axis.reach) for part, axis in sizes)
    return planes[..., row, frame, :, column]
