"""Which algorithm for a Gram matrix is cheapest on a CPU, from shapes alone.

Costs are in multiplications of a large float64 matrix product. The constants were fitted to measurements of 23 layers
on one core with AVX-512, those of tiles to 8 layers on one core with AVX2, and predict each algorithm within about a
third there; where it matters the algorithms differ by more, so that other machines need no others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

from tract_fx.ops.cpu import spectral
from tract_fx.ops.cpu.blocks import row_steps
from tract_fx.ops.cpu.toeplitz import Axes, axes_of, sums_shape
from tract_fx.ops.patches import PatchGeometry

__all__ = ["Algorithm", "is_spectral_possible", "is_toeplitz_possible", "select_algorithm", "select_tile"]

Algorithm = Literal["plain", "toeplitz", "spectral"]

# Writing an element of a patch in float64 and reading it again, and starting to write those of a row of outputs.
PATCH_ELEMENT = 55
PATCH_RUN = 400
# Clearing, mirroring and adding up an element of the Gram matrix of tiles.
TILE_ELEMENT = 150
# A tile is taken where it costs less than this part of single outputs: small gains are within the error of the prediction.
TILE_GAIN = 0.75
# Outputs along an axis in a tile, and features of a tile, whose Gram matrix is in memory three times.
MOST_OUTPUTS = 8
MOST_TILE_FEATURES = 640
PLAIN_CALLS = 5_000_000

# Narrow products of displaced images: of one number with one other, of one with none, and copying one.
TOEPLITZ_PRODUCT = 1.6
TOEPLITZ_NARROW = 20
TOEPLITZ_COPY = 26
# A product and a copy of any size, with the Python around them.
TOEPLITZ_PRODUCT_CALL = 2_000_000
TOEPLITZ_COPY_CALL = 8_000_000

# The products for each frequency are small: what they cost is mostly to read and write their sums.
SPECTRAL_PRODUCT = 0.35
SPECTRAL_SUM = 30
# A pixel of a phase image: widened, transformed, and turned over for the products.
SPECTRAL_ELEMENT = 260
# Everything that is done once, or once for each row near an end.
SPECTRAL_CALLS = 33_000_000

# Elements of the sums over windows, of which there are up to four times (in three dimensions eight times) as many as
# the result has, and of one row of shifted images, which is never split: 32 MiB in float64.
MOST_ELEMENTS = 2**22
# Elements of the sums for all frequencies, of one row of phase images, and of the inverse transform.
MOST_SPECTRAL_ELEMENTS = 2**21


@functools.lru_cache(maxsize=256)
def select_algorithm(shape: tuple[int, ...], geometry: PatchGeometry) -> Algorithm:
    """The algorithm for an input of this shape: ``plain`` is always possible."""
    axes = axes_of(geometry, shape[2:])
    channels = shape[1] // geometry.groups
    rows = shape[0] * math.prod(axis.outputs for axis in axes)
    outputs = geometry.outputs(shape[2:])
    tile = select_tile((shape[0], channels, *shape[2:]), dataclasses.replace(geometry, groups=1))
    costs: dict[Algorithm, float] = {"plain": plain_cost(channels, shape[0], outputs, geometry, tile)}
    if is_toeplitz_possible(shape, geometry):
        costs["toeplitz"] = toeplitz_cost(axes, channels, rows)
    if is_spectral_possible(shape, geometry):
        costs["spectral"] = spectral_cost(axes, channels, shape[0])
    return min(costs, key=costs.__getitem__)


@functools.lru_cache(maxsize=256)
def select_tile(shape: tuple[int, ...], geometry: PatchGeometry) -> tuple[int, ...]:
    """How many neighbouring outputs along each axis the plain algorithm takes together, for an input of one group."""
    outputs = geometry.outputs(shape[2:])
    one = (1,) * len(outputs)
    if min(outputs, default=0) < 1:
        return one
    axes = zip(outputs, geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)
    counts = [_tile_counts(*axis) for axis in axes]
    small = [one] + [
        tile
        for tile in itertools.product(*counts)
        if shape[1] * math.prod(geometry.tiled(tile).kernel_size) <= MOST_TILE_FEATURES
    ]
    costs = {tile: plain_cost(shape[1], shape[0], outputs, geometry, tile) for tile in small}
    best = min(small, key=costs.__getitem__)
    return best if costs[best] < TILE_GAIN * costs[one] else one


def _tile_counts(outputs: int, kernel: int, stride: int, dilation: int) -> list[int]:
    """Divisors of the number of outputs, where patches overlap and are not dilated."""
    if kernel <= stride or dilation > 1:
        return [1]
    return [count for count in range(1, MOST_OUTPUTS + 1) if outputs % count == 0]


def is_toeplitz_possible(shape: Sequence[int], geometry: PatchGeometry) -> bool:
    """Whether patches overlap, blocks of ``stride`` offsets describe how, and the memory for that is small."""
    sizes = list(zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True))
    if any(size > 1 and dilation > 1 for size, _, dilation in sizes) or all(size <= step for size, step, _ in sizes):
        return False
    axes = axes_of(geometry, shape[2:])
    channels = shape[1] // geometry.groups
    positions = (axes.rows.shifts, axes.columns.shifts, axes.columns.outputs)
    row_of_images = axes.lines(channels) * math.prod(positions)
    return (
        min(axis.outputs for axis in axes) > 0
        and row_of_images <= MOST_ELEMENTS
        and math.prod(sums_shape(axes, channels)) <= MOST_ELEMENTS
    )


def is_spectral_possible(shape: Sequence[int], geometry: PatchGeometry) -> bool:
    """Whether :mod:`tract_fx.ops.cpu.spectral` applies: patches overlap along columns, not frames; memory is small."""
    if not is_toeplitz_possible(shape, geometry):
        return False
    axes = axes_of(geometry, shape[2:])
    if axes.frames.reach or not axes.columns.reach or any(axis.outputs < axis.blocks for axis in axes):
        return False
    lines = axes.lines(shape[1] // geometry.groups)
    sizes = _spectral_sums(axes, lines), lines * spectral.transform_size(axes.columns), _inverse_elements(axes)
    return max(sizes) <= MOST_SPECTRAL_ELEMENTS


def plain_cost(
    channels: int, batch: int, outputs: Sequence[int], geometry: PatchGeometry, tile: Sequence[int]
) -> float:
    """Cost of writing patches of tiles and multiplying a triangle of their Gram matrix; tiles of one output are plain."""
    features = channels * math.prod(geometry.tiled(tile).kernel_size)
    rows = batch * math.prod(outputs) / math.prod(tile)
    steps = len(list(row_steps(features)))
    triangle = (1 + 1 / steps) / 2
    run = outputs[-1] / tile[-1] if outputs else features
    element = features * triangle + PATCH_ELEMENT + PATCH_RUN / run
    folded = TILE_ELEMENT * features**2 if math.prod(tile) > 1 else 0
    return rows * features * element + folded + PLAIN_CALLS


def toeplitz_cost(axes: Axes, channels: int, rows: int) -> float:
    """Cost of the products of displaced images."""
    lines = axes.lines(channels)
    displacements = len(list(axes.displacements()))
    products = displacements * axes.columns.shifts - axes.columns.reach
    copies = axes.frames.blocks * axes.columns.shifts + 1
    runs = math.prod(len(axis.runs()) for axis in axes)
    calls = runs * (displacements * TOEPLITZ_PRODUCT_CALL + axes.frames.blocks * TOEPLITZ_COPY_CALL)
    product = (lines * TOEPLITZ_PRODUCT + TOEPLITZ_NARROW) * products
    return rows * lines * (product + TOEPLITZ_COPY * copies) + calls


def spectral_cost(axes: Axes, channels: int, batch: int) -> float:
    """Cost of transforms, of products for each frequency, and of the ends."""
    lines, rows, columns = axes.lines(channels), axes.rows, axes.columns
    images = batch * axes.frames.outputs
    height = rows.outputs + 2 * rows.reach
    ends = 4 * rows.reach  # rows at both ends, each with the rows it is displaced to
    pixels = lines * spectral.transform_size(columns)
    sums = _spectral_sums(axes, lines)
    columns_at_ends = 4 * (columns.reach * lines) ** 2 * rows.blocks
    bands = images * height * pixels / spectral.BAND_ELEMENTS + 1
    return (
        SPECTRAL_PRODUCT * images * (height + ends) * (sums + columns_at_ends)
        + SPECTRAL_SUM * sums * (bands * rows.blocks + 6 * rows.reach)
        + SPECTRAL_ELEMENT * images * (height + ends) * pixels
        + SPECTRAL_CALLS * rows.blocks
    )


def _spectral_sums(axes: Axes, lines: int) -> int:
    frequencies = spectral.transform_size(axes.columns) // 2 + 1
    return frequencies * (2 * lines) ** 2 * axes.rows.blocks


def _inverse_elements(axes: Axes) -> int:
    return 2 * axes.columns.shifts * (spectral.transform_size(axes.columns) // 2 + 1)
