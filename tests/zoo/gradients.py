"""TrAct gradients of a whole model by eager float64 autograd, derived weights included."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tract_fx import reference

LINEAR = nn.functional.linear
CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)


@dataclasses.dataclass(frozen=True)
class _Call:
    input: Tensor
    weight: Tensor
    output_gradients: list[Tensor]
    geometry: dict[str, Any] | None  # of a convolution

    def gradient(self, lam: float) -> Tensor:
        """Reference gradient of the weight as this call saw it."""
        (output_gradient,) = self.output_gradients
        if self.geometry is None:
            return reference.linear_gradient(self.input, output_gradient, lam)
        return reference.conv_gradient(self.input, output_gradient, self.weight, lam, **self.geometry)


class _FirstCalls(TorchFunctionMode):
    """Keeps the calls of layers whose input nothing trainable has touched: autograd says so, not a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if function is LINEAR or function in CONVOLUTIONS:
            input, weight, *rest = arguments
            if weight.requires_grad and (input.is_leaf or not input.requires_grad):
                # A hook and not .grad, which an activation that works in place would make its own.
                gradients: list[Tensor] = []
                output.register_hook(gradients.append)
                self.calls.append(_Call(input.detach(), weight, gradients, _geometry(function, rest, keywords or {})))
        return output


def _geometry(function: Any, arguments: list, keywords: dict[str, Any]) -> dict[str, Any] | None:
    if function is LINEAR:
        return None
    names = ("bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, arguments, strict=False)) | keywords
    return {name: given[name] for name in names[1:] if name in given}


def expected_gradients(
    model: nn.Module, arguments: tuple, keywords: dict[str, Any], loss: Callable[[Any], Tensor], lam: float
) -> dict[str, Tensor]:
    """Gradients of every parameter behind the weight of a first layer, summed over calls.

    The reference gradient of a weight that is computed from parameters is sent back through that computation.
    """
    twin = in_double(copy.deepcopy(model))
    first = _FirstCalls()
    with first:
        value = loss(twin(*map(in_double, arguments), **{name: in_double(item) for name, item in keywords.items()}))
    value.backward(retain_graph=True)
    found: dict[str, Tensor] = {}
    for call in first.calls:
        new = call.gradient(lam)
        for name, parameter in twin.named_parameters():
            part = new if parameter is call.weight else _behind(call.weight, parameter, new)
            if part is not None:
                found[name] = found.get(name, 0) + part
    return found


def in_double(value: Any) -> Any:
    """Modules and floating-point tensors in float64, everything else as it is."""
    floating = isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.is_floating_point())
    return value.double() if floating else value


def _behind(weight: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor | None:
    if not parameter.requires_grad or weight.grad_fn is None:
        return None
    return torch.autograd.grad(weight, parameter, gradient, retain_graph=True, allow_unused=True)[0]
