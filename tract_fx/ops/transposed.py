"""Transposed convolutions as ordinary ones.

Along one axis a transposed convolution with stride ``s`` and dilation ``d`` computes::

    output[y] = sum of input[i] weight[k] over all i, k with s i + d k = y + padding

which is an ordinary convolution, with stride 1 and the kernel turned round, of the input with ``s - 1`` zeros between its
pixels. Most entries of such a row are zeros: an output meets every ``s / gcd(s, d)``-th offset of the kernel only. Outputs
that meet the same offsets are a *phase*. Rows of two phases have no offset in common, so that the covariance has one block
for each phase, and the rows in that block are patches of the input without the zeros::

    X[y][k] = input[source + q - j d / gcd(s, d)]        for y = first + s q, k = offset + j s / gcd(s, d)

Neighbouring phases mostly see the same window of the input. They share one covariance, and count as more outputs of one
ordinary convolution with stride 1, a :class:`Part`. Features of a part are in the order of the window, so that the kernel
is turned round where the parts' gradients are put together. ``r`` remains the number of all outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tract_fx.ops.patches import PatchGeometry

__all__ = [
    "Part",
    "TransposedGeometry",
    "as_convolution",
    "parts_of",
    "squared_rows",
    "swap_channels",
    "systems_of",
]


@dataclasses.dataclass(frozen=True)
class TransposedGeometry(PatchGeometry):
    """A transposed convolution; arguments as in ``torch.nn.functional.conv_transpose2d``."""

    output_padding: tuple[int, ...] = ()

    def outputs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the output for an input with these spatial sizes."""
        return tuple(
            (size - 1) * stride + dilation * (kernel - 1) + more + 1 - 2 * width
            for size, kernel, stride, width, dilation, more in self._axes(spatial)
        )

    def _axes(self, spatial: Sequence[int]) -> list[tuple[int, ...]]:
        lists = self.kernel_size, self.stride, self.padding, self.dilation, self.output_padding
        return list(zip(spatial, *lists, strict=True))


@dataclasses.dataclass(frozen=True)
class _Phases:
    """Neighbouring phases of one axis that see the same window of the input.

    Attributes:
        offset: in the kernel, the first of the first phase; that of the next one is the next.
        count: number of phases.
        taps: number of offsets of each phase.
        output: the first output of the first phase; that of the next one is ``step`` later.
        window: zeros before and after the input that the window has; negative where it does not have all of the input.
        step, stride: the layer's dilation and stride.
        dilation: between neighbouring taps, in pixels of the input.
        period: of the phases in the kernel.
    """

    offset: int
    count: int
    taps: int
    output: int
    window: tuple[int, int]
    step: int
    stride: int
    dilation: int
    period: int

    def joined_with(self, later: _Phases) -> _Phases | None:
        """These phases and later ones, or None where those see something else or are not the next."""
        same = dataclasses.replace(later, offset=self.offset, count=self.count, output=self.output) == self
        if not same or later.offset != self.offset + self.count:
            return None
        return dataclasses.replace(self, count=self.count + later.count)

    def outputs(self, size: int) -> int:
        """Number of outputs of one phase."""
        return size + sum(self.window) - self.dilation * (self.taps - 1)


@dataclasses.dataclass(frozen=True)
class Part:
    """An ordinary convolution with stride 1: the phases of all axes that see the same window of the input."""

    axes: tuple[_Phases, ...]
    groups: int

    @property
    def geometry(self) -> PatchGeometry:
        """How rows are taken from :meth:`window`."""
        taps, dilation = tuple(axis.taps for axis in self.axes), tuple(axis.dilation for axis in self.axes)
        return PatchGeometry(taps, (1,) * len(taps), (0,) * len(taps), dilation, self.groups)

    @property
    def phases(self) -> int:
        """Number of phases: the outputs of the layer are so many times outputs of this convolution."""
        return math.prod([axis.count for axis in self.axes])

    def outputs(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the output for an input of the layer with these spatial sizes."""
        return tuple(axis.outputs(size) for axis, size in zip(self.axes, spatial, strict=True))

    def window(self, input: Tensor) -> Tensor:
        """What this convolution sees of ``(batch, channels, *spatial)``."""
        return _padded(input, [axis.window for axis in self.axes])

    def output_gradient(self, output_gradient: Tensor, spatial: Sequence[int]) -> Tensor:
        """``(batch, groups * m, *output)`` of the layer as ``(batch, groups * m * phases, *outputs)`` of this one."""
        view, dims = output_gradient, len(self.axes)
        for axis, size in zip(reversed(self.axes), reversed(self.outputs(spatial)), strict=True):
            # The last of the spatial dimensions goes to the front as two: outputs of a phase, and phases.
            length, width = axis.stride * size, axis.step * (axis.count - 1) + 1
            missing = axis.output + length - view.shape[-1]
            whole = torch.nn.functional.pad(view, (0, missing)) if missing > 0 else view
            periods = whole.narrow(-1, axis.output, length).unflatten(-1, (size, axis.stride))
            view = periods[..., : width : axis.step].movedim((-2, -1), (0, 1))
        # (outputs, phases, outputs, phases, ..., batch, groups * m)
        order = *range(1, 2 * dims, 2), *range(0, 2 * dims, 2)
        return view.permute(2 * dims, 2 * dims + 1, *order).flatten(1, 1 + dims)

    def in_weight(self, gradient: Tensor, kernel_size: Sequence[int]) -> Tensor:
        """A gradient of this convolution, with zeros at the offsets of all others.

        Args:
            gradient: ``(groups, m * phases, channels * taps)``, channels of one group.
            kernel_size: of the layer.

        Returns:
            ``(groups * channels, m, *kernel_size)``.
        """
        counts, taps = [axis.count for axis in self.axes], [axis.taps for axis in self.axes]
        dims = len(counts)
        blocks = gradient.unflatten(2, (-1, *taps)).unflatten(1, (-1, *counts)).flip(tuple(range(-dims, 0)))
        # (groups, m, *counts, channels, *taps) -> (groups, channels, m, tap, phase, tap, phase, ...)
        pairs = [dim for axis in range(dims) for dim in (3 + dims + axis, 2 + axis)]
        margins: list[int] = []
        for axis, size in zip(self.axes, kernel_size, strict=True):
            phases = (axis.offset, axis.period - axis.offset - axis.count)
            margins = [*phases, 0, -(-size // axis.period) - axis.taps, *margins]
        wide = torch.nn.functional.pad(blocks.permute(0, 2 + dims, 1, *pairs), margins).flatten(0, 1)
        for dim, size in enumerate(kernel_size, start=2):
            wide = wide.flatten(dim, dim + 1).narrow(dim, 0, size)
        return wide


def parts_of(geometry: TransposedGeometry, spatial: Sequence[int]) -> list[Part]:
    """The ordinary convolutions that a transposed one consists of; outputs that meet no offset are in none.

    Args:
        geometry: the layer's.
        spatial: sizes of its input, some of which may be symbolic.
    """
    axes = [_phases(*axis) for axis in geometry._axes(spatial)]
    return [Part(axis, geometry.groups) for axis in itertools.product(*axes)]


def _phases(size: Any, kernel: int, stride: int, padding: int, dilation: int, more: int) -> list[_Phases]:
    if isinstance(size, int) and size == 1:
        stride = dilation * kernel  # one pixel has no stride; with this one, every offset of the kernel is a phase
    common = math.gcd(stride, dilation)
    period, length = stride // common, dilation * (kernel - 1) + more + 1 - 2 * padding
    found: list[_Phases] = []
    for offset in range(min(period, kernel)):
        output = (offset * dilation - padding) % stride
        source = (output + padding - offset * dilation) // stride
        taps = -(-(kernel - offset) // period)
        beyond = -(-(length - output) // stride) - 1  # outputs that there are more than pixels of the input
        if size + beyond < 1:
            continue
        window = dilation // common * (taps - 1) - source, beyond + source
        phase = _Phases(offset, 1, taps, output, window, dilation, stride, dilation // common, period)
        joined = found[-1].joined_with(phase) if found else None
        found[-1:] = [joined] if joined else [*found[-1:], phase]
    return found


def systems_of(input: Tensor, geometry: PatchGeometry) -> list[tuple[Tensor, PatchGeometry]]:
    """Inputs of ordinary convolutions, with their geometries, whose covariances are all of a layer's."""
    if not isinstance(geometry, TransposedGeometry):
        return [(input, geometry)]
    return [(part.window(input), part.geometry) for part in parts_of(geometry, input.shape[2:])]


def squared_rows(input: Tensor, geometry: PatchGeometry) -> Tensor:
    """The sum of ``|x|^2`` over all rows ``x``, which is the trace of the Gram matrix: ``(groups,)`` in float64.

    Args:
        input: ``(batch, channels, *spatial)``.
        geometry: with stride 1 and without padding, as :attr:`Part.geometry`.
    """
    sums = input.to(torch.float64).square().sum(0).unflatten(0, (geometry.groups, -1)).sum(1)
    for taps, dilation in zip(reversed(geometry.kernel_size), reversed(geometry.dilation), strict=True):
        # The last axis: each tap sees as many pixels as there are outputs.
        outputs = sums.shape[-1] - dilation * (taps - 1)
        sums = torch.stack([sums.narrow(-1, dilation * tap, outputs) for tap in range(taps)]).sum((0, -1))
    return sums


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """The weight of a transposed convolution in the layout of an ordinary one, and the other way round."""
    return weight.unflatten(0, (groups, weight.shape[0] // groups)).transpose(1, 2).flatten(0, 1)


def as_convolution(input: Tensor, geometry: PatchGeometry) -> tuple[Tensor, PatchGeometry]:
    """One ordinary convolution whose rows are all rows of a transposed one, zeros included, in reverse order.

    It has all features, in the order of the weight, where :func:`parts_of` leaves out what is zero: for measurements.

    Args:
        input: ``(batch, channels, *spatial)``.
        geometry: the layer's; one that is not transposed is returned as it is.
    """
    if not isinstance(geometry, TransposedGeometry):
        return input, geometry
    spatial = [(size - 1) * stride + 1 for size, stride in zip(input.shape[2:], geometry.stride, strict=True)]
    dims = tuple(range(2, input.dim()))
    spread = input.new_zeros(*input.shape[:2], *spatial)
    spread[(..., *(slice(None, None, stride) for stride in geometry.stride))] = input.flip(dims)
    margins = []
    for _, kernel, _, width, dilation, more in geometry._axes(spatial):
        before = dilation * (kernel - 1) - width
        margins.append((before + more, before))
    one, zero = (1,) * len(dims), (0,) * len(dims)
    ordinary = PatchGeometry(geometry.kernel_size, one, zero, geometry.dilation, geometry.groups)
    return _padded(spread, margins), ordinary


def _padded(input: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """``input`` with zeros around its spatial dimensions, or cut where a margin is negative.

    First the zeros and then the cuts: what is cut on one side may be more than all of the input.
    """
    sides = [max(side, 0) for margin in reversed(margins) for side in margin]
    padded = torch.nn.functional.pad(input, sides) if any(sides) else input
    for dim, (before, after) in enumerate(margins, start=2):
        if min(before, after) < 0:
            padded = padded.narrow(dim, max(-before, 0), input.shape[dim] + before + after)
    return padded
