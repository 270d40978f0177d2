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

from tract_fx.ops.cpu.blocks import PartialSums, Scratch, boxes, mirror_upper_, rows_at_once
from tract_fx.ops.patches import PatchGeometry

__all__ = ["Axes", "Axis", "add_images", "assemble", "axes_of", "new_sums", "sums_shape"]


class Run(NamedTuple):
    """``count`` neighbouring sets of ``width`` positions, all of a set in the same windows. One of the two is 1."""

    start: int
    count: int  # type: ignore[assignment] # of sets, not tuple.count
    width: int

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + self.count * self.width

    def cut(self, piece: slice) -> Run:
        """The part ``piece`` of the width, counted from ``start``; all of a run of single positions."""
        return self._replace(start=self.start + piece.start, width=piece.stop - piece.start)


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

    def runs(self) -> list[Run]:
        """All positions: those in every window together, those near an end one by one."""
        end = self.outputs + self.reach
        if self.outputs < self.blocks:
            return [Run(0, end, 1)]
        middle = Run(self.reach, 1, self.outputs - self.reach)
        return [Run(0, self.reach, 1), middle, Run(self.outputs, self.reach, 1)] if self.reach else [middle]

    def windows(self, position: int) -> slice:
        """The blocks in whose windows ``block <= position < block + outputs`` a position lies."""
        return slice(max(0, position - self.outputs + 1), min(self.blocks, position + 1))


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

    def runs(self) -> Iterator[tuple[Run, ...]]:
        """All positions."""
        return itertools.product(*(axis.runs() for axis in self))

    def windows(self, runs: tuple[Run, ...]) -> Iterator[tuple[slice, ...]]:
        """The blocks in whose windows each of the sets of a run lies."""
        for sets in itertools.product(*(range(run.count) for run in runs)):
            yield tuple(axis.windows(run.start + index) for axis, run, index in zip(self, runs, sets, strict=True))


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
    *displacements, lines, shifts, _ = sums.shape[3:]
    for runs in axes.runs():
        frames, rows, columns = runs
        sets = list(axes.windows(runs))

        def add(products: Tensor, sets: list[tuple[slice, ...]] = sets) -> None:
            for index, windows in enumerate(sets):
                sums[windows] += products[:, :, index].unflatten(-1, (shifts, lines))

        partial = PartialSums(add, sums.new_zeros(*displacements, len(sets), lines, shifts * lines))
        height = rows.stop - rows.start
        elements = len(sets) * lines * shifts * (height + 2 * axes.rows.reach) // height
        limit = rows_at_once(images, elements) // columns.width
        for batch, piece_frames, piece_rows in boxes([len(images), frames.width, rows.width], limit):
            block = planes[..., batch, :]
            part = frames.cut(piece_frames), rows.cut(piece_rows), columns
            products = partial.part_for(block.shape[-2] * math.prod(run.width for run in part))
            _add_products(products, block, axes, part, scratch)
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
    products: Tensor, planes: Tensor, axes: Axes, runs: tuple[Run, Run, Run], scratch: tuple[Scratch, Scratch]
) -> None:
    """Add the products of positions with themselves displaced, for every displacement, to those of their sets.

    Args:
        products: ``(frame displacement, row displacement, sets, lines, column displacement * lines)``, with
            displacements as in ``sums``.
        planes: phase images of some of the batch.
        axes: the axes.
        runs: of frames, rows and columns.
        scratch: memory for the two factors.
    """
    left = scratch[0].fill(_fixed(planes, axes, runs)).flatten(7).flatten(3, 6).flatten(0, 2)
    for frame in range(axes.frames.blocks):
        above = axes.rows.reach if frame else 0
        right = scratch[1].fill(_moved(planes, axes, runs, frame, above)).flatten(8).flatten(2, 6)
        for row in range(-above, axes.rows.blocks):
            target = products[frame, row + axes.rows.reach]
            displaced = _from_row(right, row + above, runs[1])
            if len(target) > 1:
                target.baddbmm_(left, displaced.mT)
            else:  # the one large product: of no displacement at all, the negative half along columns is not needed
                first = axes.columns.reach * left.shape[1] if frame == row == 0 else 0
                target[0, :, first:].addmm_(left[0], displaced[0, first:].T)


def _fixed(planes: Tensor, axes: Axes, runs: tuple[Run, Run, Run]) -> Tensor:
    """The positions: ``(*counts, channels, *phases, rows, frames, batch, columns)``, as a view."""
    frames, rows, columns = runs
    view = _crop(planes, axes, *(slice(run.start, run.stop) for run in runs))
    for dim, run in ((7, columns), (5, frames), (4, rows)):
        view = view.unflatten(dim, (run.count, run.width))
    return view.permute(6, 4, 9, 0, 1, 2, 3, 5, 7, 8, 10)


def _moved(planes: Tensor, axes: Axes, runs: tuple[Run, Run, Run], frame: int, above: int) -> Tensor:
    """The positions displaced by ``frame`` and by every number of columns, with the rows around them, as a view.

    Returns:
        ``(frame count, column count, column displacement, channels, *phases, rows, frames, batch, columns)``, rows from
        ``above`` before the first to the kernel's reach after the last.
    """
    frames, rows, columns = runs
    reach = axes.columns.reach
    view = _crop(
        planes,
        axes,
        slice(frames.start + frame, frames.stop + frame),
        slice(rows.start - above, rows.stop + axes.rows.reach),
        slice(columns.start - reach, columns.stop + reach),
    )
    view = view.unfold(7, columns.stop - columns.start, 1).unflatten(8, (columns.count, columns.width))
    return view.unflatten(5, (frames.count, frames.width)).permute(5, 9, 8, 0, 1, 2, 3, 4, 6, 7, 10)


def _crop(planes: Tensor, axes: Axes, frames: slice, rows: slice, columns: slice) -> Tensor:
    """Positions of phase images, which start at ``-reach``."""
    sizes = zip((rows, frames, columns), (axes.rows, axes.frames, axes.columns), strict=True)
    row, frame, column = (slice(part.start + axis.reach, part.stop + axis.reach) for part, axis in sizes)
    return planes[..., row, frame, :, column]


def _from_row(right: Tensor, start: int, rows: Run) -> Tensor:
    """Displaced by a number of rows: ``(sets, lines of all displacements, positions)``.

    Args:
        right: ``(frame count, column count, lines of all displacements, rows, positions of a row)``.
        start: the first row to take.
        rows: how many.
    """
    taken = right[:, :, :, start : start + rows.stop - rows.start].unflatten(3, (rows.count, rows.width))
    return taken.permute(0, 3, 1, 2, 4, 5).flatten(4).flatten(0, 2)
