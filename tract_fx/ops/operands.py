"""The arguments of the closed form as a layer has them, and the way back to the layout of its weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tract_fx.ops.dual import dual_gradient
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.solve import primal_gradient

__all__ = ["Operands", "convolution_operands", "laid_out_as"]


@dataclasses.dataclass(frozen=True)
class Operands:
    """Arguments of the closed form in the layout of ``tract_fx.ops``, and the way back to the gradient's own.

    ``gradient`` is ``(groups, outputs, n)``; the dual form has no need of it, and where nothing else has, it is None.
    Where entries of a batch share one weight it is ``(groups, shared * outputs, n)``, and what the weight gets is the sum
    over ``shared``; the parts stand one below the other.
    """

    input: Tensor
    geometry: PatchGeometry
    gradient: Tensor | None
    outputs: int
    output_gradient: Tensor
    rows: Any
    restore: Callable[[Tensor], Tensor]

    def primal(self, lam: Tensor | float) -> Tensor:
        """The gradient that TrAct puts in the place of ``gradient``, in its layout, from ``n x n`` systems."""
        return primal_gradient(self.input, self.gradient, self.rows, lam, self.geometry)

    def dual(self, lam: Tensor | float) -> Tensor:
        """The same from systems of the size of the rows."""
        return dual_gradient(self.input, self.output_gradient, self.rows, lam, self.geometry)


def convolution_operands(
    input: Tensor, gradient: Tensor | None, output_gradient: Tensor, shape: Sequence[int], geometry: PatchGeometry
) -> Operands:
    """Operands of a convolution, or of a linear layer, which is one without spatial dimensions.

    Args:
        input: ``(batch, channels, *spatial)``.
        gradient: the plain gradient of the weight, or None.
        output_gradient: ``(batch, m, *output)``.
        shape: of the weight.
        geometry: the layer's.
    """
    groups = geometry.groups
    outputs, features = shape[0] // groups, math.prod(shape[1:])
    # (batch, groups * m, *output) -> (groups, batch * output, m)
    flat = output_gradient.flatten(2) if len(shape) > 2 else output_gradient[..., None]
    by_group = flat.unflatten(1, (groups, outputs))
    return Operands(
        input=input,
        geometry=geometry,
        gradient=None if gradient is None else gradient.reshape(groups, outputs, features),
        outputs=outputs,
        output_gradient=by_group.permute(1, 0, 3, 2).flatten(1, 2),
        rows=output_gradient.shape[0] * math.prod(output_gradient.shape[2:]),  # torch.Size.numel() would fix sizes
        restore=lambda new: new.reshape(shape),
    )


def laid_out_as(new: Tensor, old: Tensor) -> Tensor:
    """``new`` with its dimensions in memory in the order of those of ``old``: later nodes may view it."""
    order = sorted(range(old.dim()), key=old.stride, reverse=True)
    inverse = sorted(range(old.dim()), key=order.__getitem__)
    return new.permute(order).contiguous().permute(inverse)
