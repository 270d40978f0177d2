"""Geometries for property tests of ``tract_fx.ops``, and patches taken by slicing, which shares no code with it."""

import dataclasses
import itertools

import torch
from hypothesis import strategies as st
from torch import Tensor

from tract_fx.ops.patches import PatchGeometry


@dataclasses.dataclass(frozen=True)
class Layer:
    """A geometry and the shape of an input for it."""

    shape: tuple[int, ...]
    geometry: PatchGeometry


@st.composite
def layers(draw: st.DrawFn, dilated: bool = True) -> Layer:
    """Small convolutions in one to three dimensions, and now and then a linear layer."""
    dims = draw(st.integers(0, 3))
    if dims == 0:
        return Layer((draw(st.integers(1, 9)), draw(st.integers(1, 9))), PatchGeometry())
    largest = (7, 5, 3)[dims - 1]
    axes = [draw(_axis(largest, dilated)) for _ in range(dims)]
    sizes, kernel_size, stride, padding, dilation = zip(*axes, strict=True)
    groups, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 4)), groups * channels, *sizes)
    return Layer(shape, PatchGeometry(kernel_size, stride, padding, dilation, groups))


@st.composite
def _axis(draw: st.DrawFn, largest: int, dilated: bool) -> tuple[int, int, int, int, int]:
    kernel, stride, padding = draw(st.integers(1, largest)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    dilation = draw(st.integers(1, 3)) if dilated else 1
    needed = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return needed + draw(st.integers(0, 9)), kernel, stride, padding, dilation


def square(kernel: int, stride: int, padding: int = 0, *, dilation: int = 1, groups: int = 1) -> PatchGeometry:
    """A convolution in two dimensions that are alike."""
    return PatchGeometry((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)


def pixels(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Integers of 8 bits, the same ones at each call."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def sliced_patches(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """``(groups, rows, features)``: for each offset in the kernel, the slice of the padded input that it meets."""
    if not geometry.kernel_size:
        return input[None]
    spatial = input.shape[2:]
    frame = [size + 2 * width for size, width in zip(spatial, geometry.padding, strict=True)]
    padded = input.new_zeros(*input.shape[:2], *frame)
    inside = [slice(width, width + size) for size, width in zip(spatial, geometry.padding, strict=True)]
    padded[(..., *inside)] = input
    reach = [dilation * (size - 1) for size, dilation in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    features = []
    for channel, *offset in itertools.product(range(input.shape[1]), *map(range, geometry.kernel_size)):
        index = [
            slice(dilation * step, size - last + dilation * step, stride)
            for step, size, last, stride, dilation in zip(
                offset, frame, reach, geometry.stride, geometry.dilation, strict=True
            )
        ]
        features.append(padded[(slice(None), channel, *index)].flatten())
    return torch.stack(features).unflatten(0, (geometry.groups, -1)).transpose(1, 2)


def expected_gram(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """``X^T X`` of each group in float64."""
    rows = sliced_patches(input, geometry).double()
    return rows.mT @ rows
