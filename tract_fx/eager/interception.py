"""Intercepts the convolutions and linear layers that the ``forward`` of a module calls.

The class of the module does not matter. Its ``forward`` runs as its author wrote it, with a weight that may be standardised,
parametrised or padded by hand, and only its calls of ``torch.nn.functional`` are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tract_fx import process_state
from tract_fx.compat import is_distributed_tensor, is_wrapped, requires_grad
from tract_fx.eager.function import EagerFirstLayer, FirstLayer
from tract_fx.eager.sharing import sharing_of
from tract_fx.errors import UnsupportedLayerError
from tract_fx.ops.transposed import TransposedGeometry, parts_of
from tract_fx.raised_lam import can_be_asked, warn_where_raised

__all__ = ["Interception"]

DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
TRACED = (
    "torch.fx traces through its forward(), and the traced graph would train with plain gradients. Make it a leaf of the "
    "tracer (is_leaf_module, or leaf_modules=[tract_fx.TrActLayer]), or trace the plain model"
)
ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
ARGUMENTS_OF_TRANSPOSED = (*ARGUMENTS[:5], "output_padding", "groups", "dilation")


class Interception(TorchFunctionMode):
    """While it is entered, layers with a trainable weight compute the gradient of TrAct.

    Args:
        name: of the module, for errors.
        lam: one element.
        process_group: as an option of the backend.
        relative: as an option of the backend.
    """

    def __init__(self, name: str, lam: Tensor, process_group: str | None, relative: bool) -> None:
        super().__init__()
        self.name, self.lam, self.process_group, self.relative = name, lam, process_group, relative
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by PyTorch instead of ``func``."""
        kwargs = kwargs or {}
        if func is functional.linear or func in DIMENSIONS or func in TRANSPOSED:
            names = ARGUMENTS_OF_TRANSPOSED if func in TRANSPOSED else ARGUMENTS
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if isinstance(given.get("input"), torch.fx.Proxy):
                self._refuse(TRACED)
            if _has_trainable_weight(given) and _is_valid(given):
                self._classify(given["input"], given["weight"])
                if func is functional.linear:
                    return self._linear(**given)
                if func in TRANSPOSED:
                    return self._transposed(TRANSPOSED[func], **given)
                return self._convolution(DIMENSIONS[func], **given)
        return func(*args, **kwargs)

    def _classify(self, input: Tensor, weight: Tensor) -> None:
        """Count the call, and raise an error where its gradient cannot be computed."""
        self.calls += 1
        if self.calls > 1:
            self._refuse(
                "its forward() has several layers with trainable weights, and only the first of them can have the input "
                "of the module"
            )
        if weight.is_complex():
            self._refuse("its weight is complex; the covariance is defined for real numbers")
        if weight.device.type == "mps":
            self._refuse("the covariance needs float64, which the mps device does not have")
        if is_distributed_tensor(weight) or is_distributed_tensor(input):
            self._refuse("it is sharded over processes (DTensor), which only the backend for torch.compile supports")

    def _refuse(self, reason: str) -> NoReturn:
        raise UnsupportedLayerError(f"TrAct cannot be applied to {self.name}: {reason}.")

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = input.shape[:-1]
        rows = input[None] if input.dim() == 1 else input.flatten(0, -2)
        output = self._apply(rows, weight, bias, (), (), (), 1)
        return output[0] if input.dim() == 1 else output.unflatten(0, shape)

    def _convolution(
        self,
        dims: int,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        batch = input if input.dim() == dims + 2 else input[None]
        stride, dilation = _each(stride, dims), _each(dilation, dims)
        if padding == "same":
            batch, padding = _pad_to_same(batch, weight.shape[2:], dilation)
        padding = _each(0 if padding == "valid" else padding, dims)
        output = self._apply(batch, weight, bias, stride, padding, dilation, groups)
        return output if batch.dim() == input.dim() else output[0]

    def _transposed(
        self,
        dims: int,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        batch = input if input.dim() == dims + 2 else input[None]
        stride, padding, dilation = _each(stride, dims), _each(padding, dims), _each(dilation, dims)
        output = self._apply(batch, weight, bias, stride, padding, dilation, groups, _each(output_padding, dims))
        return output if batch.dim() == input.dim() else output[0]

    def _apply(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        output_padding: tuple[int, ...] | None = None,
    ) -> Tensor:
        if _is_autocast(input, weight):
            dtype = torch.get_autocast_dtype(input.device.type)
            input, bias = input.to(dtype), None if bias is None else bias.to(dtype)
        features: tuple[int, ...] = (weight.shape[1:].numel(),)
        is_watched = not torch.compiler.is_compiling() and self._is_first_look(input, weight)
        if output_padding is not None and (self.process_group is not None or is_watched):
            kernel_size = tuple(weight.shape[2:])
            transposed = TransposedGeometry(kernel_size, stride, padding, dilation, groups, output_padding)
            parts = parts_of(transposed, input.shape[2:])
            features = tuple(part.geometry.features(input.shape[1]) for part in parts)
        sharing = sharing_of(self.process_group, self.name, features, groups, str(input.dtype), self.relative)
        function = FirstLayer if torch.compiler.is_compiling() else EagerFirstLayer
        geometry = stride, padding, dilation, groups, output_padding
        output = function.apply(input, weight, bias, self.lam, *geometry, self.relative, sharing, self.name)
        if is_watched:
            largest = max(features, default=0)
            rows = output.shape[0] * output.shape[2:].numel()
            warn_where_raised(self.name, input, largest, min(largest, rows), self.lam.item(), set())
        return output

    def _is_first_look(self, input: Tensor, weight: Tensor) -> bool:
        """Whether this is the first input of the layer that can be looked at, to see whether ``lam`` is raised."""
        if self.relative or id(self.lam) in process_state.looked or is_wrapped(weight) or not can_be_asked(input):
            return False
        process_state.looked[id(self.lam)] = self.lam
        return True


def _has_trainable_weight(given: dict[str, Any]) -> bool:
    return all(isinstance(given.get(name), Tensor) for name in ARGUMENTS[:2]) and requires_grad(given["weight"])


def _is_autocast(input: Tensor, weight: Tensor) -> bool:
    """Whether autocast casts both."""
    narrow = all(item.is_floating_point() and item.dtype != torch.float64 for item in (input, weight))
    return narrow and torch.is_autocast_enabled(input.device.type)


def _is_valid(given: dict[str, Any]) -> bool:
    """False where PyTorch itself raises an error about the arguments."""
    input, weight = given["input"], given["weight"]
    if input.dtype != weight.dtype and not _is_autocast(input, weight):
        return False
    padding = given.get("padding", 0)
    if padding == "same":
        return all(stride == 1 for stride in _each(given.get("stride", 1), given["weight"].dim() - 2))
    return padding == "valid" or not isinstance(padding, str)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for each dimension."""
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return numbers * dims if len(numbers) == 1 else numbers


def _pad_to_same(input: Tensor, kernel: Iterable[int], dilation: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the padding of both sides. As in PyTorch, an odd total puts one more behind, which the input gets."""
    total = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    behind = [side for width in reversed(total) for side in (0, width % 2)]
    return functional.pad(input, behind) if any(behind) else input, tuple(width // 2 for width in total)
