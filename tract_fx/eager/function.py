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
from tract_fx.errors import UnsupportedLayerError
from tract_fx.ops.operands import LayerOperands, laid_out_as, layer_operands
from tract_fx.ops.patches import PatchGeometry
from tract_fx.ops.transposed import TransposedGeometry

__all__ = ["EagerFirstLayer", "FirstLayer"]

# Of lam and of the constants.
NO_GRADIENT = (None,) * 9

SECOND = (
    "TrAct cannot be applied to {name}: the loss differentiates its gradients again, and the gradient of TrAct has no "
    "derivative. Take TrAct off with tract_fx.remove_tract(layer), or leave the layer out of the gradient penalty."
)
TANGENT = (
    "TrAct cannot be applied to {name}: the loss depends on its forward-mode derivative, whose gradient TrAct does not "
    "define. Detach that derivative, or take TrAct off with tract_fx.remove_tract(layer)."
)

CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


class FirstLayer(torch.autograd.Function):
    """A layer with TrAct: ``FirstLayer.apply(input, weight, bias, lam, *geometry, relative, sharing, name)``.

    The output and the gradients of input and bias are those of the plain layer, in the dtype of the input. The gradient of
    the weight has the dtype of the weight. It is computed in the backward pass, with the value that ``lam``, a tensor with
    one element, has at that time. All others are constants: ``geometry`` is stride, padding, dilation, groups and output
    padding, where the stride is empty for a linear layer and the last is None but for transposed convolutions; ``relative``
    puts ``lam`` in units of the covariance, ``sharing`` is usually None, and ``name`` is the layer's, for errors.

    This class is the one that Dynamo traces. Dynamo accepts no ``jvp``, which is why :class:`EagerFirstLayer` exists.
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
        output_padding: tuple[int, ...] | None,
        relative: bool,
        sharing: Sharing | None,
        name: str,
    ) -> Tensor:
        """The output of the plain layer."""
        # The operands are cast already. A cast made here would stay in autocast's cache, without a gradient.
        with torch.autocast(input.device.type, enabled=False):
            weight = weight.to(input.dtype)
            if not stride:
                return torch.nn.functional.linear(input, weight, bias)
            if output_padding is None:
                return CONVOLUTIONS[len(stride)](input, weight, bias, stride, padding, dilation, groups)
            convolution = TRANSPOSED[len(stride)]
            return convolution(input, weight, bias, stride, padding, output_padding, groups, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the plain layer keeps: its operands."""
        input, weight, _, lam, *geometry, ctx.relative, ctx.sharing, ctx.name = inputs
        ctx.save_for_backward(input, weight, lam)
        ctx.geometry = geometry

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias."""
        return *_gradients(ctx, output_gradient), *NO_GRADIENT


class EagerFirstLayer(FirstLayer):
    """:class:`FirstLayer` outside compiled code: with forward-mode derivatives, and errors that name the layer."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the operands for forward mode, too."""
        FirstLayer.setup_context(ctx, inputs, output)
        input, weight, _, lam, *_ = inputs
        ctx.save_for_forward(input, weight, lam)
        ctx.output_shape = output.shape

    @staticmethod
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, weight and bias, which cannot be differentiated again."""
        with torch.no_grad():
            found = _gradients(ctx, output_gradient)
        if torch.is_grad_enabled():
            found = _differentiable_once(found, (output_gradient, *ctx.saved_tensors[:2]), SECOND.format(name=ctx.name))
        return *found, *NO_GRADIENT

    @staticmethod
    def jvp(
        ctx: Any, input_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None, *_: Any
    ) -> Tensor:
        """The tangent of the plain layer, which is linear in its input and in its weight."""
        input, weight, lam = ctx.saved_tensors
        constants = lam, *ctx.geometry, ctx.relative, ctx.sharing, ctx.name
        with torch.no_grad():
            tangent = input.new_zeros(ctx.output_shape)
            if input_tangent is not None:
                tangent = tangent + FirstLayer.forward(input_tangent, weight, None, *constants)
            if weight_tangent is not None:
                tangent = tangent + FirstLayer.forward(input, weight_tangent, None, *constants)
            if bias_tangent is not None:
                spatial = len(ctx.geometry[0])
                tangent = tangent + bias_tangent.reshape(-1, *(1,) * spatial)
        sources = tuple(item for item in (input_tangent, weight_tangent, input, weight) if item is not None)
        return _differentiable_once((tangent,), sources, TANGENT.format(name=ctx.name))[0]


def _gradients(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias."""
    input, weight, lam = ctx.saved_tensors
    stride, padding, dilation, groups, output_padding = ctx.geometry
    kernel_size = tuple(weight.shape[2:])
    geometry = PatchGeometry(kernel_size, stride, padding, dilation, groups)
    if output_padding is not None:
        geometry = TransposedGeometry(kernel_size, stride, padding, dilation, groups, output_padding)
    with torch.autocast(input.device.type, enabled=False):
        of_input, of_bias = _plain_gradients(
            input, weight, output_gradient, geometry, ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        )
        new = None
        if ctx.needs_input_grad[1]:
            dual = ctx.sharing is None and _rows(output_gradient) < geometry.features(input.shape[1])
            operands = layer_operands(input, output_gradient, weight.shape, geometry)
            solved = _solve(operands, output_gradient, lam.to(input.device), dual, ctx.relative, ctx.sharing)
            new = laid_out_as(solved, weight).to(weight.dtype)
    return of_input, new, of_bias


def _differentiable_once(tensors: tuple[Any, ...], sources: tuple[Tensor, ...], message: str) -> tuple[Any, ...]:
    """``tensors``, whose backward pass raises ``message`` where a source requires grad."""
    present = [index for index, tensor in enumerate(tensors) if tensor is not None]
    marked = _Refusal.apply(message, len(present), *(tensors[index] for index in present), *sources)
    found = list(tensors)
    for index, tensor in zip(present, marked, strict=True):
        found[index] = tensor
    return tuple(found)


class _Refusal(torch.autograd.Function):
    """``_Refusal.apply(message, count, *tensors)`` returns the first ``count`` tensors; its backward pass is an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors themselves."""
        return tuple(tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the message."""
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Raise the error."""
        raise UnsupportedLayerError(ctx.message)


def _rows(output_gradient: Tensor) -> int:
    return output_gradient.shape[0] * math.prod(output_gradient.shape[2:])


def _solve(
    operands: LayerOperands, output_gradient: Tensor, lam: Tensor, dual: bool, relative: bool, sharing: Sharing | None
) -> Tensor:
    if sharing is None:
        return operands.gradient(lam, dual=dual, relative=relative)
    systems = [(system.input, system.geometry) for system in operands.systems]
    started, exponent = start_covariance(systems, _rows(output_gradient), lam, output_gradient, sharing)
    return operands.restore(shared_gradient(started, exponent, operands, lam, sharing))


def _plain_gradients(
    input: Tensor, weight: Tensor, output_gradient: Tensor, geometry: PatchGeometry, of_input: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and bias as autograd computes them, by the same operators."""
    weight = weight.to(input.dtype)
    if not geometry.kernel_size:
        return output_gradient.mm(weight) if of_input else None, output_gradient.sum(0) if of_bias else None
    if not of_input and not of_bias:
        return None, None
    transposed = isinstance(geometry, TransposedGeometry)
    more = geometry.output_padding if isinstance(geometry, TransposedGeometry) else [0] * len(geometry.stride)
    spatial = geometry.stride, geometry.padding, geometry.dilation
    others = transposed, more, geometry.groups, [of_input, False, of_bias]
    # Without input channels PyTorch's output has no channels, and its bias has.
    biases = [geometry.groups * weight.shape[1] if transposed else weight.shape[0]]
    found = torch.ops.aten.convolution_backward(output_gradient, input, weight, biases, *spatial, *others)
    return found[0], found[2]
