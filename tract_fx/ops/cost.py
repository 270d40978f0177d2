"""Which way to a Gram matrix is cheaper on a CPU, from shapes alone.

Costs are in multiplications of a large float64 matrix product. The constants were fitted to measurements of twenty layers on
one core with AVX-512, where they predict either way within a third; the ways differ by factors of 2 to 4 where it
matters, so that other machines need no others.
"""

from __future__ import annotations

import math

from tract_fx.ops.blocks import row_steps
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.toeplitz import Axes, axes_of, sums_shape

__all__ = ["is_toeplitz_cheaper"]

# A product of an (m, r) and an (r, n) matrix with m <= n costs m * n * r * (1 + NARROW / m).
NARROW = 8
# Converting an element and writing it where a product reads it.
COPY = 10
# A product and a copy of any size, with the Python around them.
PRODUCT_CALL = 150_000
COPY_CALL = 600_000
# Elements of the sums over windows, of which there are up to four times (in three dimensions eight times) as many as the
# result has: 32 MiB in float64.
MOST_SUMS = 2**22


def is_toeplitz_cheaper(shape: tuple[int, ...], geometry: PatchGeometry) -> bool:
    """Whether :mod:`tract_fx.ops.toeplitz` applies to an input of this shape and is worth its many small products."""
    if not _overlaps(geometry):
        return False
    axes = axes_of(geometry, shape[2:])
    channels = shape[1] // geometry.groups
    if min(axis.outputs for axis in axes) < 1 or math.prod(sums_shape(axes, channels)) > MOST_SUMS:
        return False
    rows = shape[0] * math.prod(axis.outputs for axis in axes)
    return toeplitz_cost(axes, channels, rows) < plain_cost(geometry.features(shape[1]), rows)


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
    spans = math.prod(len(axis.spans()) for axis in axes)
    calls = spans * (displacements * PRODUCT_CALL + axes.frames.blocks * COPY_CALL)
    return rows * lines * ((lines + NARROW) * products + COPY * copies) + calls


def _overlaps(geometry: PatchGeometry) -> bool:
    """Whether patches share pixels in a way that blocks of ``stride`` offsets describe."""
    sizes = list(zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True))
    return all(size == 1 or dilation == 1 for size, _, dilation in sizes) and any(
        size > step for size, step, _ in sizes
    )
