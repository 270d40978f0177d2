"""Which way to a Gram matrix is cheaper on a CPU, from shapes alone.

Costs are in multiplications of a large float64 matrix product. The constants were fitted to measurements of twenty
layers on one core with AVX-512, where they predict either way within a third but for the smallest layers; the ways
differ by factors of 2 to 4 where it matters, so that other machines need no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tract_fx.ops.blocks import row_steps
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.toeplitz import Axes, axes_of, sums_shape

__all__ = ["is_toeplitz_cheaper", "is_toeplitz_possible"]

# A product of an (m, r) and an (r, n) matrix with m <= n costs m * n * r * (1 + NARROW / m).
NARROW = 8
# Converting an element and writing it where a product reads it.
COPY = 10
# A product and a copy of any size, with the Python around them.
PRODUCT_CALL = 150_000
COPY_CALL = 600_000
# Elements of the sums over windows, of which there are up to four times (in three dimensions eight times) as many as
# the result has, and of one row of shifted images, which is never split: 32 MiB in float64.
MOST_ELEMENTS = 2**22


def is_toeplitz_cheaper(shape: Sequence[int], geometry: PatchGeometry) -> bool:
    """Whether an input of this shape is worth the many small products of :mod:`tract_fx.ops.toeplitz`."""
    if not is_toeplitz_possible(shape, geometry):
        return False
    axes = axes_of(geometry, shape[2:])
    channels = shape[1] // geometry.groups
    rows = shape[0] * math.prod(axis.outputs for axis in axes)
    return toeplitz_cost(axes, channels, rows) < plain_cost(geometry.features(shape[1]), rows)


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


def plain_cost(features: int, rows: int) -> float:
    """Cost of writing ``rows`` patches and multiplying a triangle of their Gram matrix."""
    steps = len(list(row_steps(features)))
    triangle = (1 + 1 / steps) / 2
    return rows * features * (features * triangle + NARROW + COPY) + COPY_CALL


def toeplitz_cost(axes: Axes, channels: int, rows: int) -> float:
    """Cost of the products of displaced images."""
    lines = axes.lines(channels)
    displacements = len(list(axes.displacements()))
    products = displacements * axes.columns.shifts - axes.columns.reach
    copies = axes.frames.blocks * axes.columns.shifts + 1
    runs = math.prod(len(axis.runs()) for axis in axes)
    calls = runs * (displacements * PRODUCT_CALL + axes.frames.blocks * COPY_CALL)
    return rows * lines * ((lines + NARROW) * products + COPY * copies) + calls
