"""``tract_fx::alike_gradients``: the closed form of many small linear layers of one shape at once, on a CPU.

A forecasting network may have a linear layer for each of its channels. Each system is tiny, and a dozen operators for each
cost more than all of their arithmetic. Here the systems are stacked, and every step is one batched operator. A layer still
has its own covariance, factor and, should that fail, its own plain gradient: no number of one layer reaches another.

Everything is in float64, in the form with the smaller system.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tract_fx.ops.dual import dual_gradient
from tract_fx.ops.gradient import sums_of
from tract_fx.ops.patches import LINEAR
from tract_fx.ops.solve import regularise, scale_down, scaled_lam, solve_primal

__all__ = ["alike_gradients"]

# Elements of the rows, of the gradients of outputs and of the systems that are stacked at once: 4 MiB in float64.
MOST_STACKED = 2**19


@torch.library.custom_op("tract_fx::alike_gradients", mutates_args=())
def alike_gradients(
    inputs: list[Tensor], output_gradients: list[Tensor], lam: Tensor, relative: bool = False
) -> list[Tensor]:
    """Gradients of the weights of linear layers.

    Args:
        inputs: ``X`` of each layer, all ``(r, n)`` of one floating-point dtype.
        output_gradients: ``dZ`` of each layer, all ``(r, m)``.
        lam: with one element.
        relative: whether ``lam`` is in units of the mean eigenvalue of each covariance.

    Returns:
        ``(m, n)`` for each layer, in float64 for inputs in float64, and in float32 else: the plain ``dZ^T X`` for a layer
        whose factorisation fails.
    """
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    step = MOST_STACKED // max(1, _stacked_elements(inputs[0], output_gradients[0]))
    found: list[Tensor] = []
    if step < 2 or inputs[0].numel() == 0:
        for input, output_gradient in zip(inputs, output_gradients, strict=True):
            found.append(_one(input, output_gradient, lam, relative).to(dtype))
        return found
    for start in range(0, len(inputs), step):
        some = slice(start, start + step)
        # Results of an operator may not share memory.
        found += torch.unbind_copy(_stacked(inputs[some], output_gradients[some], lam, relative).to(dtype))
    return found


@alike_gradients.register_fake
def _(inputs: list[Tensor], output_gradients: list[Tensor], lam: Tensor, relative: bool = False) -> list[Tensor]:
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    return [
        input.new_empty((output_gradient.shape[1], input.shape[1]), dtype=dtype)
        for input, output_gradient in zip(inputs, output_gradients, strict=True)
    ]


def _stacked_elements(input: Tensor, output_gradient: Tensor) -> int:
    """Of one layer."""
    (rows, features), outputs = input.shape, output_gradient.shape[1]
    return rows * (features + outputs) + min(rows, features) ** 2 + outputs * features


def _one(input: Tensor, output_gradient: Tensor, lam: Tensor, relative: bool) -> Tensor:
    """A layer that is large enough for the operators of its own."""
    rows, features = input.shape
    if rows < features:
        return dual_gradient(input, output_gradient[None], rows, lam, LINEAR, relative=relative)[0]
    input, scale = scale_down(input)
    gram, gradient = sums_of(input, output_gradient, LINEAR)
    return solve_primal(gram / rows, gradient * scale, lam, scale, relative=relative)[0]


def _stacked(inputs: Sequence[Tensor], output_gradients: Sequence[Tensor], lam: Tensor, relative: bool) -> Tensor:
    """Of a few layers at once, ``(layers, m, n)`` in float64."""
    X, dZ = (torch.stack(list(tensors)).to(torch.float64) for tensors in (inputs, output_gradients))
    rows, features = X.shape[1:]
    scale, by_layer = _scales(inputs[0].dtype, X)
    X = X / by_layer if isinstance(by_layer, Tensor) else X
    is_dual = rows < features
    matrix = (X @ X.mT if is_dual else X.mT @ X) / rows
    matrix = regularise(matrix, scaled_lam(matrix, lam, scale, features if relative else None))
    factor, info = torch.linalg.cholesky_ex(matrix)
    solve = torch.cholesky_solve
    new = solve(dZ, factor).mT @ X if is_dual else solve(X.mT @ dZ, factor).mT
    new = new / by_layer if isinstance(by_layer, Tensor) else new
    if info.any():
        new = torch.where((info == 0)[:, None, None], new, dZ.mT @ X * by_layer)
    return new


def _scales(dtype: torch.dtype, rows: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """As of :func:`~tract_fx.ops.solve.scale_down`, of each layer: ``(layers,)`` and ``(layers, 1, 1)``, or 1."""
    if dtype != torch.float64 or rows.numel() == 0:
        return 1.0, 1.0
    scale = torch.exp2(torch.ceil(torch.log2(rows.abs().amax((1, 2)).clamp(min=1.0))))
    return scale, scale[:, None, None]
