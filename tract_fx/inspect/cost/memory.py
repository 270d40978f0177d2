"""Upper bounds of the memory that sums over rows take beyond their operands, for the algorithms of :mod:`tract_fx.ops`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import sympy

from tract_fx.ops.cpu import spectral
from tract_fx.ops.cpu.blocks import (
    BLOCK_ELEMENTS,
    BLOCK_ELEMENTS_ON_GPU,
    FEWEST_ROWS,
    MOST_STEPS,
    PADDED_ELEMENTS,
    ROWS_PER_SUM,
    TRIANGLE_STEP,
)
from tract_fx.ops.cpu.gradient import ROWS_OF_SUM, SINGLE_ELEMENTS
from tract_fx.ops.cpu.selection import (
    MOST_ELEMENTS,
    MOST_OUTPUTS,
    MOST_TILE_FEATURES,
    is_spectral_possible,
    is_toeplitz_possible,
)
from tract_fx.ops.cpu.toeplitz import Axes, axes_of, sums_shape
from tract_fx.ops.gpu.launch import WORKSPACE_BYTES
from tract_fx.ops.patches import PatchGeometry

__all__ = ["gradient_memory", "gram_memory"]

Expr: TypeAlias = sympy.Expr

FLOAT32, FLOAT64 = 4, 8

# Widest range of :func:`tract_fx.ops.cpu.blocks.row_steps`, as long as there are fewer than MOST_STEPS ranges.
WIDEST_STEP = TRIANGLE_STEP * 3 // 2


def gram_memory(
    shape: Sequence[Expr], geometry: PatchGeometry, rows: Expr, features: Expr, itemsize: int, device: str
) -> Expr:
    """Bytes of the result, and of what is held beside it at most during the computation.

    Groups are processed one after another and share one set of blocks.

    Args:
        shape: of the input, ``(batch, channels, *spatial)``.
        geometry: of the patches.
        rows: how many there are.
        features: of one group.
        itemsize: bytes of an element of the input.
        device: type of the device.
    """
    if features == 0:  # an empty system: of a layer without inputs, or, in the dual form, of an empty batch
        return sympy.Integer(0)
    result = FLOAT64 * geometry.groups * features**2
    if device == "cuda":  # the kernels write no blocks, but sums of some parts of the rows
        return result + sympy.Max(WORKSPACE_BYTES, result, _plain(shape, geometry, rows, features, itemsize, device))
    ways = [_plain(shape, geometry, rows, features, itemsize, device)]
    if device == "cpu" and geometry.kernel_size:
        ways.extend(_of_overlapping_patches(shape, geometry, itemsize))
    return result + sympy.Max(*ways)


def gradient_memory(features: Expr, outputs: Expr, groups: Expr | int) -> Expr:
    """Bytes that ``G`` takes beyond those of :func:`gram_memory`.

    That is itself, in float64, ``dZ`` in a block of few rows, and on a CPU the float32 sums of the rows of a block. The
    covariance is there by then, but its blocks are not, and those of ``X`` are no larger.

    Args:
        features: ``n``, of one group.
        outputs: ``m``, of one group.
        groups: number of systems.
    """
    if features == 0 or outputs == 0:
        return sympy.Integer(0)
    sums = sympy.Max(1, SINGLE_ELEMENTS // (ROWS_OF_SUM * (features + outputs)))
    return FLOAT64 * outputs * (groups * features + FEWEST_ROWS) + FLOAT32 * sums * outputs * features


def _plain(
    shape: Sequence[Expr], geometry: PatchGeometry, rows: Expr, features: Expr, itemsize: int, device: str
) -> Expr:
    """Padded images, a block of their patches, the sum of a part of the rows, and to mirror that a few squares."""
    limit = sympy.Integer(BLOCK_ELEMENTS if device == "cpu" else BLOCK_ELEMENTS_ON_GPU) // features
    if device == "cpu":
        limit = sympy.Min(ROWS_PER_SUM, sympy.Max(FEWEST_ROWS, limit))
    block = sympy.Min(rows, sympy.Max(1, limit)) * features
    widest = sympy.Max(WIDEST_STEP, features / MOST_STEPS)
    square = sympy.Min(features, widest) ** 2
    padded = sympy.Integer(0)
    if any(geometry.padding):
        sizes = [size + 2 * width for size, width in zip(shape[2:], geometry.padding, strict=True)]
        padded = _padded_images(shape, geometry.groups, sizes, itemsize)
    most = geometry.tiled([MOST_OUTPUTS if tiled else 1 for tiled in _tiled_axes(geometry, device)])
    larger = sympy.Min(MOST_TILE_FEATURES, features * math.prod(most.kernel_size) / math.prod(geometry.kernel_size))
    tiles = 4 * larger**2 if most != geometry else 0  # their sums, and some of these
    return padded + FLOAT64 * (features**2 + block + 3 * square + tiles)


def _tiled_axes(geometry: PatchGeometry, device: str) -> list[bool]:
    """Along which axes several outputs may be taken together."""
    axes = zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)
    return [device == "cpu" and kernel > stride and dilation == 1 for kernel, stride, dilation in axes]


def _padded_images(shape: Sequence[Expr], groups: Expr | int, sizes: Sequence[Expr], itemsize: int) -> Expr:
    """As many images of one group as are padded at once, their spatial sizes becoming ``sizes``."""
    batch, channels, *spatial = shape
    channels = channels / groups
    at_once = sympy.Max(1, PADDED_ELEMENTS // sympy.Max(1, sympy.Mul(channels, *spatial)))
    return itemsize * sympy.Mul(channels, *sizes) * sympy.Min(batch, at_once)


def _of_overlapping_patches(shape: Sequence[Expr], geometry: PatchGeometry, itemsize: int) -> list[Expr]:
    """Bytes of the ways that do not write patches, where they are possible; which is cheapest depends on the batch."""
    if not all(size.is_number for size in shape[1:]):
        # Each is allowed 32 MiB for its sums, which stands for as much again for parts of them, blocks and the result's
        # other orders.
        return [sympy.Integer(6 * FLOAT64 * MOST_ELEMENTS)]
    sizes = [1, *map(int, shape[1:])]
    axes, channels = axes_of(geometry, sizes[2:]), sizes[1] // geometry.groups
    found = []
    if is_toeplitz_possible(sizes, geometry):
        padded = [sympy.Integer(axis.size + sum(axis.margins)) for axis in axes]
        images = _padded_images(shape, geometry.groups, padded, itemsize)
        found.append(images + FLOAT64 * _toeplitz_elements(axes, channels))
    if is_spectral_possible(sizes, geometry):
        found.append(sympy.Integer(FLOAT64 * _spectral_elements(axes, channels)))
    return found


def _toeplitz_elements(axes: Axes, channels: int) -> int:
    """Sums over windows, and beside them first their parts with two blocks, then copies of the matrix in another order."""
    lines, shifts = axes.lines(channels), axes.columns.shifts
    left = right = parts = 0
    for runs in axes.runs():
        _, rows, columns = runs
        sets, height, reach = math.prod(run.count for run in runs), rows.stop - rows.start, 2 * axes.rows.reach
        elements = sets * lines * shifts * (height + reach) // height
        at_once = max(1, min(ROWS_PER_SUM, max(FEWEST_ROWS, BLOCK_ELEMENTS // elements)) // columns.width)
        piece = min(height, at_once)  # of which the displaced factor has the rows around it
        block = at_once * columns.width * sets * lines
        left, right = max(left, block), max(right, block * shifts * (piece + reach) // piece)
        parts = max(parts, sets * axes.frames.blocks * axes.rows.shifts * lines * lines * shifts)
    return math.prod(sums_shape(axes, channels)) + left + right + max(parts, _assembled_elements(axes, lines))


def _spectral_elements(axes: Axes, channels: int) -> int:
    """Sums for every frequency and for every displacement, and beside them some bands."""
    lines, size, rows = axes.lines(channels), spectral.transform_size(axes.columns), axes.rows
    frequencies = (size // 2 + 1) * (2 * lines) ** 2 * rows.blocks
    displacements = rows.blocks**2 * lines**2 * axes.columns.shifts
    bands = 6 * max(spectral.BAND_ELEMENTS, 2 * rows.blocks * lines * size)
    assembled = math.prod(sums_shape(axes, channels)) + _assembled_elements(axes, lines)
    return max(frequencies + 8 * displacements + bands, displacements + assembled)


def _assembled_elements(axes: Axes, lines: int) -> int:
    return 3 * (math.prod(axis.blocks for axis in axes) * lines) ** 2
