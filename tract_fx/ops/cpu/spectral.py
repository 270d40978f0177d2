"""Gram matrices of overlapping patches from spectra of phase images.

Read :mod:`tract_fx.ops.cpu.toeplitz` first: phases, blocks, displacements, lines and windows are those, and so are the sums
that its ``assemble`` turns into the matrix. Here displacements along columns take no products of their own. With the
Fourier transform of rows that are followed by ``reach`` zeros or more, so that nothing wraps around, two lines ``l`` and
``m`` have for every displacement ``d``::

    sum_{all u}  image[l][u] * image[m][u + d]
        =  1 / size * sum_{all f}  conj(spectrum[l][f]) * spectrum[m][f] * exp(2 pi i f d / size)

The products on the right are summed over rows and images, one matrix product for each frequency, and only these sums are
transformed back. An image displaced by rows is another ``m``. Two real numbers squared for each two columns are about two
multiplications for a position, a displacement along rows and a pair of lines, instead of ``2 * reach + 1``.

All positions are more than a window has. The others are few, and are subtracted::

    sum over the window of block b  =  sum_{all u}  -  sum_{u < b}  -  sum_{u >= b + outputs}

first along rows, where the terms are products of the spectra of single rows, then along columns, where they are products
of pixels. What is subtracted for successive blocks is a running sum.

*Accuracy.* A transform mixes all columns of a row, and a subtraction keeps the rounding of what it takes away. An entry
is wrong by a few float64 units of ``|l| |m|``, the norms of its lines in all positions, and the matrix therefore by a few
units of its trace (positions are pixels of some patch), where :func:`~tract_fx.ops.solve.regularise` allows for ``8 n``.
Not promised, unlike in the other ways, are exact sums of integers, that two entries that are equal come out equal, and
that a pixel which is not finite reaches no entries but its own. It does reach those, so that no finite number stands
where none should.

*Layout.* A *band* holds some rows of positions of some images, one row of positions after the other with all lines of
it: ``(frequencies, images * rows, width)``, ``width`` being twice the number of lines for real and imaginary parts. The
lines of ``blocks`` successive rows are neighbours, which are all displacements along rows. To multiply the lines of every
row with these is ``blocks`` matrix products, one for every ``blocks``-th row from a first one on, whose factors are views
of the same memory: rows of ``blocks * width`` numbers, of which the left factor has the first ``width``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tract_fx.ops.cpu.blocks import PartialSums, boxes
from tract_fx.ops.cpu.toeplitz import Axes, Axis, new_sums

__all__ = ["spectral_sums", "transform_size"]

# Real numbers in a band: 1 MiB. What a band is made from takes as much twice, and the sums of products take their size.
BAND_ELEMENTS = 3 * 2**16


def transform_size(axis: Axis) -> int:
    """Size of the transform along an axis: even, of factors 2, 3 and 5, and with zeros for every displacement."""
    size = axis.outputs + 2 * axis.reach
    while size % 2 or 30 ** size.bit_length() % size:
        size += 1
    return size


def spectral_sums(images: Tensor, axes: Axes) -> Tensor:
    """Sums of products for displacements along rows that are not negative, which are all that ``assemble`` reads.

    Args:
        images: ``(batch, channels, *spatial)`` of any floating-point dtype.
        axes: their axes. Patches do not overlap along frames, and there are at least ``blocks`` rows and columns of
            outputs.

    Returns:
        What :func:`~tract_fx.ops.cpu.toeplitz.new_sums` and :func:`~tract_fx.ops.cpu.toeplitz.add_images` make.
    """
    spatial = images.reshape(*images.shape[:2], *(axis.size for axis in axes))
    everything = _all_columns(spatial, axes)
    sums = new_sums(images, axes)
    windows = sums[0, :, :, 0, axes.rows.reach :].transpose(0, 1)
    windows += everything
    for first in (True, False):
        _subtract_outside(windows, _end_columns(spatial, axes, first), first)
    return sums


def _all_columns(images: Tensor, axes: Axes) -> Tensor:
    """Sums over all columns: ``(row block, row displacement, lines, column displacement, lines)``."""
    rows, columns = axes.rows, axes.columns
    lines, size = axes.lines(images.shape[1]), transform_size(columns)
    inverse = _inverse(size, columns.reach, images.device)

    def bands(part: range) -> Iterator[tuple[Tensor, int]]:
        planes = _Planes((lines, size), len(part), axes, images)
        spectra = images.new_empty(size // 2 + 1, len(planes.memory) * len(part) * lines, dtype=torch.complex128)
        for plane in planes.fill(part, range(columns.outputs + columns.reach)):
            band = spectra[:, : plane.shape[:-1].numel()]
            band.copy_(torch.fft.rfft(plane).flatten(0, -2).T)
            yield torch.view_as_real(band).flatten(1).unflatten(1, (-1, 2 * lines)), len(plane)

    def displacements(products: Tensor) -> Tensor:
        parts = (inverse @ products.flatten(1)).view(2, columns.shifts, lines, 2, rows.blocks, lines, 2)
        # conj(a + bi) * (c + di) = ac + bd + (ad - bc) i
        real = parts[0, :, :, 0, ..., 0] + parts[0, :, :, 1, ..., 1]
        real += parts[1, :, :, 0, ..., 1]
        real -= parts[1, :, :, 1, ..., 0]
        return real.permute(2, 1, 0, 3)

    result = images.new_zeros(rows.blocks, rows.blocks, lines, columns.shifts, lines, dtype=torch.float64)
    products = images.new_zeros(size // 2 + 1, 2 * lines, rows.blocks * 2 * lines, dtype=torch.float64)
    _add_windows(result, rows, bands, displacements, products, _pieces(axes, lines * size), 0)
    return result


def _end_columns(images: Tensor, axes: Axes, first: bool) -> Tensor:
    """Sums over single columns, the first or the last ``reach``: ``(reach, *shape of the sums over all columns)``."""
    rows, reach = axes.rows, axes.columns.reach
    lines = axes.lines(images.shape[1])
    width = 2 * reach * lines
    start = 0 if first else axes.columns.outputs - reach

    def bands(part: range) -> Iterator[tuple[Tensor, int]]:
        planes = _Planes((lines, 2 * reach), len(part), axes, images)
        turned = planes.memory.new_empty(1, len(planes.memory) * len(part), 2 * reach, lines)
        for plane in planes.fill(part, range(start, start + 2 * reach)):
            band = turned[:, : plane.shape[:2].numel()]
            band.copy_(plane.transpose(2, 3).flatten(0, 1))
            yield band.flatten(2), len(plane)

    result = images.new_zeros(rows.blocks, reach * lines, rows.blocks * width, dtype=torch.float64)
    products = torch.zeros_like(result[:1])
    offset = 0 if first else reach * lines
    _add_windows(result, rows, bands, lambda products: products[0], products, _pieces(axes, width), offset)
    # The columns at all displacements from the first, the second, ...: a diagonal band, with zeros where there is none.
    result = result.view(rows.blocks, reach, lines, rows.blocks, 2 * reach, lines).permute(1, 4, 0, 3, 2, 5)
    columns = result.new_zeros(reach, 3 * reach, *result.shape[2:])
    columns[:, reach * first :][:, : 2 * reach] = result
    down, across, *strides = columns.stride()
    displaced = columns.as_strided((reach, 2 * reach + 1, *columns.shape[2:]), (down + across, across, *strides))
    return displaced.permute(0, 2, 3, 4, 1, 5)


def _add_windows(
    result: Tensor,
    rows: Axis,
    bands: Callable[[range], Iterator[tuple[Tensor, int]]],
    reduce: Callable[[Tensor], Tensor],
    products: Tensor,
    pieces: list[range],
    offset: int,
) -> None:
    """Add sums over the rows in the windows of each block to ``result``, whose first dimension is ``blocks``.

    Args:
        result: of as many windows as there are blocks.
        rows: the axis.
        bands: given positions of rows, bands with these for some images after others, and the number of images.
        reduce: makes what to add from products.
        products: zeros, ``(frequencies, lines of the left factor, blocks * width)``.
        pieces: positions of rows to ask for, see :func:`_pieces`.
        offset: of the left factor's lines in those of the right one.
    """
    partial = PartialSums(lambda products: result.add_(reduce(products)), products)
    for piece in pieces:
        _add_everything(partial, bands(piece), rows.blocks, len(piece), offset)
    partial.flush()
    for first in (True, False) if rows.reach else ():
        outside = result.new_zeros(rows.reach, *result.shape[1:])
        start = 0 if first else rows.outputs
        for band, images in bands(range(start, start + 2 * rows.reach)):
            for row in range(rows.reach):
                _multiply(products, band, rows.blocks, slice(row, None, 2 * rows.reach), images, offset, 0)
                outside[row] += reduce(products)
        _subtract_outside(result, outside, first)


def _add_everything(
    partial: PartialSums, bands: Iterator[tuple[Tensor, int]], blocks: int, height: int, offset: int
) -> None:
    """Add the products of all rows of bands, except the last ``blocks - 1``, for :func:`_add_windows`."""
    for band, images in bands:
        part = partial.part_for(images * height)
        for start in range(blocks):
            # One step more would leave the band. Its row is one of zeros, or the next piece has it.
            count = band.shape[1] // blocks - (start > 0)
            _multiply(part, band, blocks, slice(start, None, blocks), count, offset, 1)


def _multiply(products: Tensor, band: Tensor, blocks: int, rows: slice, count: int, offset: int, beta: int) -> None:
    """Add the products of some of the lines of ``rows`` with all lines of these and the ``blocks - 1`` next ones."""
    frequencies, width = len(band), band.shape[2]
    strides = band.stride(0), rows.step * width, 1
    begin = band.storage_offset() + rows.start * width
    left = band.as_strided((frequencies, products.shape[1], count), (strides[0], 1, strides[1]), begin + offset)
    products.baddbmm_(left, band.as_strided((frequencies, count, blocks * width), strides, begin), beta=beta)


def _subtract_outside(windows: Tensor, parts: Tensor, first: bool) -> None:
    """Subtract from each window the positions outside of it.

    Args:
        windows: ``(blocks, ...)``.
        parts: ``(reach, ...)``. Of the first positions, the one at ``u`` is outside of the windows of blocks after ``u``,
            and of those from ``outputs`` on, the one at ``outputs + u`` is outside of the windows of blocks up to ``u``.
        first: which of the two.
    """
    running = torch.zeros_like(parts[:1])
    for index in range(len(parts)) if first else reversed(range(len(parts))):
        running += parts[index]
        windows[index + first] -= running[0]


def _pieces(axes: Axes, width: int) -> list[range]:
    """Positions of rows that make a band of about :data:`BAND_ELEMENTS` with all of an image, or a part of it.

    A piece shares its last ``reach`` rows with the next one, which multiplies them. The last piece has zeros there, and
    so has each image where one piece is all. A part of an image is more than half as large as a band may be: a band with
    parts has only one image.
    """
    rows = axes.rows
    positions = rows.outputs + rows.reach
    count = -(-positions * width // BAND_ELEMENTS)
    step = max(rows.blocks, -(-positions // count))
    height = -(-(step + rows.reach) // rows.blocks) * rows.blocks
    return [range(start, start + height) for start in range(0, positions, height - rows.reach)]


class _Planes:
    """Memory for rows of phase images in float64, with zeros where there are none.

    Args:
        shape: number of lines, and of columns.
        height: number of rows.
        axes: of the images.
        images: ``(batch, channels, frames, rows, columns)``.
    """

    def __init__(self, shape: tuple[int, int], height: int, axes: Axes, images: Tensor) -> None:
        self._axes, self._images = axes, images
        most = BAND_ELEMENTS // (height * math.prod(shape))
        self._boxes = list(boxes([len(images), axes.frames.outputs], most))
        size = max(math.prod(part.stop - part.start for part in box) for box in self._boxes)
        self.memory = images.new_zeros(size, height, *shape, dtype=torch.float64)

    def fill(self, rows: range, columns: range) -> Iterator[Tensor]:
        """``(images, rows, lines, columns)`` for some images after others, in the same memory."""
        for images, frames in self._boxes:
            view = _positions(self._images[images], self._axes, range(frames.start, frames.stop), rows, columns)
            plane = self.memory[: view.shape[:2].numel()]
            height, width = view.shape[2], view.shape[-1]
            plane[:, :height, :, :width].view_as(view).copy_(view)
            del view  # and with it the padded images
            yield plane


def _positions(images: Tensor, axes: Axes, frames: range, rows: range, columns: range) -> Tensor:
    """View of positions of phase images, up to the last one: ``(batch, frames, rows, channels, *phases, columns)``."""
    margins: list[int] = []
    for dim, (axis, part) in enumerate(zip(axes, (frames, rows, columns), strict=True), start=2):
        start = axis.stride * part.start - axis.padding
        length = axis.stride * (min(part.stop, axis.outputs + axis.reach) - part.start - 1) + axis.phases
        before = min(max(0, -start), length)
        # Where the last block of the kernel is incomplete, a last position has phases that are in no patch.
        pixels = min(axis.size, axis.stride * (axis.outputs - 1) + axis.kernel - axis.padding)
        inside = range(pixels)[start + before : start + length]
        images = images.narrow(dim, inside.start, len(inside))
        margins = [before, length - before - len(inside), *margins]
    view = torch.nn.functional.pad(images, margins)
    for dim, axis in enumerate(axes, start=2):
        view = view.unfold(dim, axis.phases, axis.stride)
    return view.permute(0, 2, 3, 1, 5, 6, 7, 4)


def _inverse(size: int, reach: int, device: torch.device) -> Tensor:
    """``(2 * shifts, frequencies)``: what real and imaginary parts contribute to the sums at each displacement."""
    displacements = torch.arange(-reach, reach + 1)[:, None]
    frequencies = torch.arange(size // 2 + 1)
    # Integers keep the angles right for any size.
    angles = (displacements * frequencies % size).to(torch.float64) * (2 * math.pi / size)
    # All frequencies but the first and the last of this half stand for two.
    weights = torch.where(frequencies % (size // 2) == 0, 1.0, 2.0).to(torch.float64) / size
    return torch.cat([angles.cos() * weights, -angles.sin() * weights]).to(device)
