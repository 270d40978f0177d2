"""Rows of a layer: what a convolution or a linear layer multiplies with its weight.

Layout contract, for all of ``tract_fx.ops``:

- an input is ``(batch, channels, *spatial)`` with as many spatial dimensions as the geometry has; a linear layer is the
  case without any, and its input is ``(rows, features)``;
- features are ordered as in ``weight.flatten(1)``: channel first, then the kernel's dimensions;
- rows are ordered batch first, then the output's spatial dimensions;
- groups are a leading batch dimension.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LINEAR", "PatchGeometry", "unfold_patches"]

# The arguments that stand for a geometry in the schema of an operator: four lists and the number of groups.
OperatorArguments = tuple[list[int], list[int], list[int], list[int], int]


@dataclasses.dataclass(frozen=True)
class PatchGeometry:
    """How patches are taken from an input; the tuples have one entry for each spatial dimension."""

    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def from_arguments(
        cls,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> PatchGeometry:
        """The geometry that the arguments of an operator stand for."""
        return cls(tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups)

    def arguments(self) -> OperatorArguments:
        """The arguments of an operator that stand for this geometry: the way back is :meth:`from_arguments`."""
        return list(self.kernel_size), list(self.stride), list(self.padding), list(self.dilation), self.groups

    def features(self, channels: int) -> int:
        """Number ``n`` of features of one group."""
        return channels // self.groups * math.prod(self.kernel_size)

    def outputs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the output for an input with these spatial sizes."""
        axes = zip(spatial, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * width - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, width, dilation in axes
        )

    def tiled(self, tile: Sequence[int]) -> PatchGeometry:
        """Patches that hold those of ``tile`` neighbouring outputs of a geometry that is dilated only where that is one."""
        kernel = [
            size + (count - 1) * step for size, step, count in zip(self.kernel_size, self.stride, tile, strict=True)
        ]
        stride = [step * count for step, count in zip(self.stride, tile, strict=True)]
        return dataclasses.replace(self, kernel_size=tuple(kernel), stride=tuple(stride))


LINEAR = PatchGeometry()


def pad(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """``input`` with zeros around its spatial dimensions."""
    if not any(geometry.padding):
        return input
    return torch.nn.functional.pad(input, [side for width in reversed(geometry.padding) for side in (width, width)])


def patch_view(padded: Tensor, geometry: PatchGeometry) -> Tensor:
    """View of a padded input as patches, without a copy.

    Returns:
        ``(groups, channels / groups, *kernel_size, batch, *output_size)``.
    """
    dims = len(geometry.kernel_size)
    view = padded
    for dim, (size, stride, dilation) in enumerate(
        zip(geometry.kernel_size, geometry.stride, geometry.dilation, strict=True)
    ):
        view = view.unfold(2 + dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    view = view.unflatten(1, (geometry.groups, view.shape[1] // geometry.groups))
    return view.permute(1, 2, *range(3 + dims, 3 + 2 * dims), 0, *range(3, 3 + dims))


def unfold_patches(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """The matrix ``X`` of the paper, one for each group, in memory.

    Args:
        input: ``(batch, channels, *spatial)``, any dtype.
        geometry: the layer's geometry.

    Returns:
        ``(groups, rows, features)``.
    """
    view = patch_view(pad(input, geometry), geometry)
    split = 2 + len(geometry.kernel_size)
    columns = view.flatten(split).flatten(1, split - 1)
    return columns.transpose(1, 2)
