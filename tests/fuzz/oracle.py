"""What the gradients must be: the same network run eagerly in float64, with the method's reference at its first layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tract_fx import reference

__all__ = ["Oracle", "convolve", "error"]

Function = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_CONVOLUTION = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


class Oracle:
    """``first`` in the text of a network.

    Args:
        lam: the regularisation; it may be set between steps. None for the plain gradient.
        rounded: whether the closed form is applied, exactly, to the plain gradient as the network's precision rounds it,
            and not to the gradient of the output.
    """

    def __init__(self, lam: float | None, rounded: bool = False) -> None:
        self.lam, self.rounded = lam, rounded

    def first(self, rows: Any, function: Function, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """``function(x, w, b)``, with the reference gradient for ``w``."""
        return _FirstLayer.apply(self, rows, function, x, w, b)


class _FirstLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, oracle: Oracle, rows: Any, function: Function, *operands: Tensor | None) -> Tensor:
        with torch.enable_grad():
            inside = [None if item is None else item.detach().requires_grad_() for item in operands]
            output = function(*inside)
        ctx.oracle, ctx.rows, ctx.inside, ctx.output = oracle, rows, inside, output
        return output.detach()

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, w, b = ctx.inside
        gradients = torch.autograd.grad(ctx.output, [x, w] if b is None else [x, w, b], dz)
        dx, dw, db = (*gradients, None) if b is None else gradients
        if ctx.oracle.lam is not None:
            # The rows are those that the operation saw, narrower than x under autocast.
            x, w, formula = x.detach().to(dz.dtype), w.detach(), _closed_form if ctx.oracle.rounded else _reference
            dw = formula(ctx.rows, x, w, dw if ctx.oracle.rounded else dz, ctx.oracle.lam).to(w.dtype)
        return None, None, None, dx, dw, db


def _reference(rows: Any, x: Tensor, w: Tensor, dz: Tensor, lam: float) -> Tensor:
    """The reference gradient, laid out as ``w``; ``rows`` is a convolution's geometry, or a layout and a scale."""
    if isinstance(rows, dict):
        unbatched = x.dim() == w.dim() - 1
        x, dz = (x[None], dz[None]) if unbatched else (x, dz)
        padded, options = _pad(x, w, rows)
        return reference.conv_gradient(padded, dz, w, lam, **options)
    layout, scale = rows  # a product may scale its result: addmm(alpha=0.5)
    dz = dz * scale
    if layout == "gnm":  # (batch, groups, n) and (groups, n, m): one layer for each group
        groups = zip(x.unbind(1), dz.unbind(1), strict=True)
        return torch.stack([reference.linear_gradient(X, dZ, lam).T for X, dZ in groups])
    if layout == "n":
        return reference.linear_gradient(x.reshape(-1, x.shape[-1]), dz.reshape(-1, 1), lam)[0]
    gradient = reference.linear_gradient(x, dz, lam)
    return gradient if layout == "mn" else gradient.T


def _closed_form(rows: Any, x: Tensor, w: Tensor, dw: Tensor, lam: float) -> Tensor:
    """``G (X^T X / r + lam I)^-1`` with the plain gradient ``G = dw`` as it is, in the layout of ``w``."""
    if isinstance(rows, dict):
        padded, options = _pad(x[None] if x.dim() == w.dim() - 1 else x, w, rows)
        X = reference.conv_rows(padded, tuple(w.shape[2:]), **options)
        return _solve(X, dw.reshape(len(X), -1, X.shape[-1]), lam).reshape(w.shape)
    layout, _ = rows
    if layout == "gnm":
        return _solve(x.transpose(0, 1), dw.transpose(1, 2), lam).transpose(1, 2)
    X = x.reshape(-1, x.shape[-1])
    if layout == "n":
        return _solve(X, dw[None], lam)[0]
    return _solve(X, dw, lam) if layout == "mn" else _solve(X, dw.T, lam).T


def _solve(X: Tensor, gradient: Tensor, lam: float) -> Tensor:
    X, gradient = X.double(), gradient.double()
    covariance = X.transpose(-1, -2) @ X / X.shape[-2]
    return torch.linalg.solve(covariance + lam * torch.eye(X.shape[-1], dtype=X.dtype), gradient, left=False)


def convolve(x: Tensor, w: Tensor, b: Tensor | None, geometry: dict[str, Any]) -> Tensor:
    """A convolution whose padding is done before it."""
    unbatched = x.dim() == w.dim() - 1
    padded, options = _pad(x[None] if unbatched else x, w, geometry)
    z = _CONVOLUTION[w.dim() - 2](padded, w, b, **options)
    return z[0] if unbatched else z


def _pad(x: Tensor, w: Tensor, geometry: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    options = dict(geometry)
    mode, padding = options.pop("padding_mode"), options.pop("padding")
    sides: list[int] = []
    for dim in reversed(range(w.dim() - 2)):
        total = options["dilation"][dim] * (w.shape[2 + dim] - 1)
        low, high = (total // 2, total - total // 2) if padding == "same" else (padding[dim], padding[dim])
        sides += [low, high]
    return torch.nn.functional.pad(x, sides, mode="constant" if mode == "zeros" else mode), options


def error(found: Tensor | None, expected: Tensor | None) -> float:
    """Relative error in the Frobenius norm; absolute when nothing is expected. A missing gradient is zero."""
    if found is None or expected is None:
        left = found if found is not None else expected
        return 0.0 if left is None else left.double().norm().item()
    difference, scale = (found.double() - expected.double()).norm(), expected.double().norm()
    return (difference / scale if scale > 0 else difference).item()
