"""One training: the first layer's gradient is replaced by the closed form, or TrAct is applied in one of its two forms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from support.oracle import layer_gradient
from tract_fx import TractBackend, apply_tract, as_default_backend, tract_backend

__all__ = ["LAM", "SIDES", "Side", "Trial"]

LAM = 0.1

PRODUCTS = (nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)

Side = Literal["closed form", "layer", "backend"]
SIDES: tuple[Side, ...] = ("closed form", "layer", "backend")


class Trial:
    """What a training is given instead of TrAct itself.

    Args:
        side: ``"layer"`` applies :func:`tract_fx.apply_tract`, and ``"backend"`` compiles the model, in place, with
            :func:`tract_fx.tract_backend`. ``"closed form"`` trains the plain model without a compiler, and replaces
            the gradient of the effective weight by that of the float64 reference, computed from the operands of each call.

    Attributes:
        gradients: of the layer's weight, at the end of every backward pass.
        plain: what autograd computed instead, on the side of the closed form.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self.gradients: list[Tensor] = []
        self.plain: list[Tensor] = []
        self._backend = tract_backend(LAM, inner="aot_eager")

    def apply(self, model: Any, name: str, compiled: nn.Module | None = None) -> Any:
        """Apply the method to a layer.

        Args:
            model: the model; it is changed in place.
            name: of the layer.
            compiled: the module to compile, where it is not the whole model.

        Returns:
            ``model``.
        """
        layer = model.get_submodule(name)
        if self.side == "layer":
            apply_tract(model, [name], LAM)
        elif self.side == "backend":
            (model if compiled is None else compiled).compile(backend=self._backend)
        else:
            mode = _ClosedForm(layer, self.plain)
            layer.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
            layer.register_forward_hook(lambda *_: mode.__exit__(None, None, None), always_call=True)
        self.record(layer.weight)
        return model

    def record(self, weight: nn.Parameter) -> None:
        """Record the gradients of a weight."""
        weight.register_post_accumulate_grad_hook(lambda parameter: self.gradients.append(parameter.grad.clone()))

    @contextlib.contextmanager
    def as_default(self) -> Iterator[TractBackend | None]:
        """On the side of the backend, inside :func:`tract_fx.as_default_backend`; yields that one, and None elsewhere."""
        if self.side != "backend":
            yield None
            return
        with as_default_backend(LAM, inner="aot_eager") as backend:
            yield backend

    @property
    def rewritten(self) -> list[str]:
        """Names of the weights that the backend rewrites."""
        return [match.weight for match in self._backend.matches]


class _ClosedForm(TorchFunctionMode):
    """Replaces the gradient of the weight in the calls that the forward of a layer makes."""

    def __init__(self, layer: nn.Module, plain: list[Tensor]) -> None:
        super().__init__()
        self.layer, self.plain = layer, plain

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in PRODUCTS or not torch.is_grad_enabled() or not args[1].requires_grad:
            return func(*args, **(kwargs or {}))
        weight, operands = args[1].view_as(args[1]), [args[0].detach().double()]

        def replaced(gradient: Tensor) -> Tensor:
            self.plain.append(gradient.clone())
            with torch.no_grad():
                return layer_gradient(self.layer, *operands, LAM).to(gradient.dtype)

        weight.register_hook(replaced)
        output = func(args[0], weight, *args[2:], **(kwargs or {}))
        # The gradient of the output is known before that of the weight.
        output.register_hook(lambda gradient: operands.append(gradient.detach().double()))
        return output
