"""The arguments of the closed form as a layer has them, and the way back to the layout of its weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tract_fx.ops.dual import dual_gradient
from tract_fx.ops.gradient import exact_gradient, sums_of
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.primal import primal_gradient_on_cpu
from tract_fx.ops.solve import primal_gradient, relative_to, scale_down, solve_primal
from tract_fx.ops.transposed import TransposedGeometry, parts_of, squared_rows

__all__ = ["LayerOperands", "Operands", "convolution_operands", "laid_out_as", "layer_operands"]


@dataclasses.dataclass(frozen=True)
class Operands:
    """Arguments of the closed form in the layout of ``tract_fx.ops``, and the way back to the gradient's own.

    ``gradient`` is the plain gradient of the layer, ``(groups, outputs, n)``, for those who want to see it; the closed forms
    compute their own. ``output_gradient`` is ``(groups, rows, outputs)``, and ``output_channels`` the same with rows and
    groups as ``input`` has them.

    Where entries of a batch share one weight, gradients are ``(groups, shared * outputs, n)``, the parts standing one below
    the other, and what the weight gets is the sum over ``shared``. ``by_entry`` computes that plain gradient then.
    """

    input: Tensor
    geometry: PatchGeometry
    gradient: Tensor | None
    outputs: int
    output_gradient: Tensor
    output_channels: Tensor
    rows: Any
    restore: Callable[[Tensor], Tensor]
    by_entry: Callable[[], Tensor] | None = None

    @property
    def features(self) -> int:
        """``n``."""
        return self.geometry.features(self.input.shape[1])

    def exact_gradient(self) -> Tensor:
        """``G`` in float64, from the operands that the layer saw."""
        return self.by_entry() if self.by_entry else exact_gradient(self.input, self.output_channels, self.geometry)

    def primal(self, lam: Tensor | float, *, relative: bool = False) -> Tensor:
        """The gradient that TrAct puts in the place of the plain one, in its layout, from ``n x n`` systems."""
        if self.by_entry is not None:
            gradient = self.exact_gradient()
            return primal_gradient(self.input, gradient, self.rows, lam, self.geometry, relative=relative)
        if _is_on_cpu(self.input):
            return primal_gradient_on_cpu(
                self.input, self.output_channels, self.rows, lam, self.geometry, relative=relative
            )
        input, scale = scale_down(self.input)
        gram, gradient = sums_of(input, self.output_channels, self.geometry)
        plain = gradient if isinstance(scale, float) else gradient * scale
        return solve_primal(gram / self.rows, plain, lam, scale, relative=relative)

    def dual(self, lam: Tensor | float, *, relative: bool = False) -> Tensor:
        """The same from systems of the size of the rows."""
        return dual_gradient(self.input, self.output_gradient, self.rows, lam, self.geometry, relative=relative)


@dataclasses.dataclass(frozen=True)
class LayerOperands:
    """Operands of every system that a layer has, which is one but for transposed convolutions.

    Attributes:
        systems: their operands.
        restore: from the gradients of all systems to that of the weight, in its layout.
        phases: how often the covariance of the layer has each system's as a block; empty where the system is the layer's.
        features: ``n`` of the layer, of which the systems have parts.
    """

    systems: tuple[Operands, ...]
    restore: Callable[[Sequence[Tensor]], Tensor]
    phases: tuple[int, ...] = ()
    features: int = 0

    @classmethod
    def of(cls, operands: Operands) -> LayerOperands:
        """Those of a layer with one system."""
        return cls((operands,), lambda new: operands.restore(*new))

    def exact_gradients(self) -> list[Tensor]:
        """``G`` of each system."""
        return [system.exact_gradient() for system in self.systems]

    def gradient(self, lam: Tensor | float, *, dual: bool, relative: bool = False) -> Tensor:
        """The gradient that TrAct puts in the place of the plain one, from ``n x n`` or from ``r x r`` systems."""
        if relative and self.phases:
            traces = [squared_rows(system.input, system.geometry) / system.rows for system in self.systems]
            lam, relative = self.lam_of_traces(traces, lam), False
        solve = Operands.dual if dual else Operands.primal
        return self.restore([solve(system, lam, relative=relative) for system in self.systems])

    def lam_of_traces(
        self, traces: Sequence[Tensor], lam: Tensor | float, scale: Tensor | float = 1.0
    ) -> Tensor | float:
        """A relative ``lam`` in squared inputs, ``(groups,)``.

        Args:
            traces: of each system's covariance of ``X / scale``, ``(groups,)``.
            lam: in units of the mean eigenvalue of the whole layer's covariance.
            scale: see :func:`~tract_fx.ops.solve.solve_primal`.
        """
        if not traces:
            return lam
        counts, features = (self.phases, self.features) if self.phases else ((1,), self.systems[0].features)
        trace = torch.stack([count * part for count, part in zip(counts, traces, strict=True)]).sum(0)
        return relative_to(trace / features, lam, scale) * (scale * scale)


def layer_operands(
    input: Tensor, output_gradient: Tensor, shape: Sequence[int], geometry: PatchGeometry
) -> LayerOperands:
    """Operands of a convolution, transposed or not, or of a linear layer; arguments as for :func:`convolution_operands`."""
    if not isinstance(geometry, TransposedGeometry):
        return LayerOperands.of(convolution_operands(input, None, output_gradient, shape, geometry))
    spatial, groups = input.shape[2:], geometry.groups
    rows = output_gradient.shape[0] * math.prod(output_gradient.shape[2:])  # of all outputs, not of one part
    parts, systems = parts_of(geometry, spatial), []
    for part in parts:
        weight = groups * shape[1] * part.phases, shape[0] // groups, *part.geometry.kernel_size
        channels = part.output_gradient(output_gradient, spatial)
        operands = convolution_operands(part.window(input), None, channels, weight, part.geometry)
        systems.append(dataclasses.replace(operands, rows=rows))

    def restore(new: Sequence[Tensor]) -> Tensor:
        placed = [part.in_weight(gradient, shape[2:]) for part, gradient in zip(parts, new, strict=True)]
        return sum(placed[1:], placed[0]) if placed else output_gradient.new_zeros(shape, dtype=torch.float64)

    phases = tuple(part.phases for part in parts)
    return LayerOperands(tuple(systems), restore, phases, math.prod((shape[0] // groups, *shape[2:])))


def convolution_operands(
    input: Tensor, gradient: Tensor | None, output_gradient: Tensor, shape: Sequence[int], geometry: PatchGeometry
) -> Operands:
    """Operands of a convolution, or of a linear layer, which is one without spatial dimensions.

    Args:
        input: ``(batch, channels, *spatial)``.
        gradient: the plain gradient of the weight, or None where nobody looks at it.
        output_gradient: ``(batch, m, *output)``.
        shape: of the weight.
        geometry: the layer's.
    """
    groups = geometry.groups
    outputs, features = shape[0] // groups, math.prod(shape[1:])
    # (batch, groups * m, *output) -> (groups, batch * output, m); without input channels PyTorch's output has none either.
    flat = output_gradient.flatten(2) if len(shape) > 2 else output_gradient[..., None]
    by_group = flat.unflatten(1, (groups, flat.shape[1] // groups))
    return Operands(
        input=input,
        geometry=geometry,
        gradient=None if gradient is None else gradient.reshape(groups, outputs, features),
        outputs=outputs,
        output_channels=output_gradient,
        output_gradient=by_group.permute(1, 0, 3, 2).flatten(1, 2),
        rows=output_gradient.shape[0] * math.prod(output_gradient.shape[2:]),  # torch.Size.numel() would fix sizes
        restore=lambda new: new.reshape(shape),
    )


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def laid_out_as(new: Tensor, old: Tensor) -> Tensor:
    """``new`` with its dimensions in memory in the order of those of ``old``: later nodes may view it."""
    order = sorted(range(old.dim()), key=old.stride, reverse=True)
    inverse = sorted(range(old.dim()), key=order.__getitem__)
    return new.permute(order).contiguous().permute(inverse)
