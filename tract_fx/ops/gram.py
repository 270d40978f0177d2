"""``tract_fx::patch_gram``: ``X^T X`` of the patches of an input, in float64.

Float64 is not a luxury. Of raw 0..255 pixels the Gram matrix has a condition number of 1e6 to 1e8 even with ``lam`` added,
and in float32 it is not even positive semi-definite. Products of two float32 numbers are exact in float64 and so are
squares of 1e30, so that one code path is right for every scale of inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from tract_fx.ops.patches import PatchGeometry, pad, patch_view

__all__ = ["gram", "patch_gram"]

# Elements of a block of patches: 4 MiB in float64, about what a core's second-level cache and its share of the third hold.
BLOCK_ELEMENTS = 2**19


@torch.library.custom_op("tract_fx::patch_gram", mutates_args=())
def patch_gram(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Gram matrix of the patches that a convolution multiplies.

    Args:
        input: ``(batch, channels, *spatial)`` of a floating-point dtype; ``(rows, features)`` when the lists are empty.
        kernel_size: one entry for each spatial dimension, as the other three.
        stride: as in ``torch.nn.functional.conv2d``.
        padding: as in ``torch.nn.functional.conv2d``; zeros, on both sides.
        dilation: as in ``torch.nn.functional.conv2d``.
        groups: number of groups of channels.

    Returns:
        ``(groups, n, n)`` in float64 with ``n = channels / groups * prod(kernel_size)``: the sum over rows ``X^T X``.
        The paper's covariance ``C`` is this divided by the number of rows.
    """
    geometry = PatchGeometry(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups)
    features = geometry.features(input.shape[1])
    result = input.new_zeros((groups, features, features), dtype=torch.float64)
    for columns in _column_blocks(input, geometry):
        result.baddbmm_(columns, columns.transpose(1, 2))
    return result


@patch_gram.register_fake
def _(
    input: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    features = input.shape[1] // groups * math.prod(kernel_size)
    return input.new_empty((groups, features, features), dtype=torch.float64)


def gram(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """:func:`patch_gram` with a geometry for its integer arguments."""
    return patch_gram(
        input,
        list(geometry.kernel_size),
        list(geometry.stride),
        list(geometry.padding),
        list(geometry.dilation),
        geometry.groups,
    )


def _column_blocks(input: Tensor, geometry: PatchGeometry) -> Iterator[Tensor]:
    """Blocks ``(groups, features, some rows)`` in float64 that together hold every row once."""
    split = 2 + len(geometry.kernel_size)
    for images in input.split(_images_per_block(input, geometry)):
        view = patch_view(pad(images, geometry), geometry)
        columns = torch.empty(view.shape, dtype=torch.float64, device=view.device).copy_(view)
        yield columns.flatten(split).flatten(1, split - 1)


def _images_per_block(input: Tensor, geometry: PatchGeometry) -> int:
    if input.shape[0] == 0:
        return 1
    elements = patch_view(pad(input[:1], geometry), geometry).numel()
    return max(1, BLOCK_ELEMENTS // max(1, elements))
