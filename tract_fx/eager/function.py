"""A convolution or linear layer as a function of autograd whose weight has the gradient of TrAct.

Layout: that of :mod:`tract_fx.ops`. A linear layer is a convolution without spatial dimensions, ``(rows, features)`` in and
``(rows, m)`` out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tract_fx.distributed.covariance import Sharing, shared_gradient, start_covariance
from tract_fx.ops.operands import Operands, convolution_operands, laid_out_as
from tract_fx.ops.patches import PatchGeometry

__all__ = ["FirstLayer"]

CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


class FirstLayer(torch.autograd.Function):
    """``FirstLayer.apply(input, weight, bias, lam, stride, padding, dilation, groups, sharing)``.

    Output and gradients are those of the layer in the dtype of the input, but for the gradient of the weight, which is in
    the dtype of the weight and computed when the backward pass runs with what ``lam``, a tensor with one element, holds
    then. The last five arguments are constants; ``stride`` is empty for a linear layer and ``sharing`` usually None.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lam: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        sharing: Sharing | None,
    ) -> Tensor:
        """What the layer computes."""
        # Under autocast all is cast already, and what was cast here would stay in its cache without a gradient.
        with torch.autocast(input.device.type, enabled=False):
            weight = weight.to(input.dtype)
            if not stride:
                return torch.nn.functional.linear(input, weight, bias)
            return CONVOLUTIONS[len(stride)](input, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the plain layer keeps: its operands."""
        input, weight, bias, lam, *geometry, ctx.sharing = inputs
        ctx.save_for_backward(input, weight, lam)
        ctx.geometry = geometry
        ctx.has_bias = bias is not None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias."""
        input, weight, lam = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        geometry = PatchGeometry(tuple(weight.shape[2:]), stride, padding, dilation, groups)
        with torch.autocast(input.device.type, enabled=False):
            rows = output_gradient.shape[0] * math.prod(output_gradient.shape[2:])
            dual = ctx.needs_input_grad[1] and ctx.sharing is None and rows < math.prod(weight.shape[1:])
            of_input, of_bias = _plain_gradients(
                input, weight, output_gradient, geometry, ctx.needs_input_grad[0], ctx.needs_input_grad[2]
            )
            new = None
            if ctx.needs_input_grad[1]:
                operands = convolution_operands(input, None, output_gradient, weight.shape, geometry)
                solved = _solve(operands, lam.to(input.device), dual, ctx.sharing)
                new = laid_out_as(operands.restore(solved), weight).to(weight.dtype)
        return of_input, new, of_bias, None, None, None, None, None, None


def _solve(operands: Operands, lam: Tensor, dual: bool, sharing: Sharing | None) -> Tensor:
    if sharing is None:
        return operands.dual(lam) if dual else operands.primal(lam)
    started, exponent = start_covariance(
        operands.input, operands.rows, lam, operands.output_gradient, operands.geometry, sharing
    )
    return shared_gradient(started, exponent, operands.exact_gradient(), lam, sharing)


def _plain_gradients(
    input: Tensor, weight: Tensor, output_gradient: Tensor, geometry: PatchGeometry, of_input: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and bias as autograd computes them, by the same operators."""
    weight = weight.to(input.dtype)
    if not geometry.kernel_size:
        return output_gradient.mm(weight) if of_input else None, output_gradient.sum(0) if of_bias else None
    if not of_input and not of_bias:
        return None, None
    spatial = geometry.stride, geometry.padding, geometry.dilation
    others = False, [0] * len(geometry.stride), geometry.groups, [of_input, False, of_bias]
    found = torch.ops.aten.convolution_backward(output_gradient, input, weight, [weight.shape[0]], *spatial, *others)
    return found[0], found[2]
