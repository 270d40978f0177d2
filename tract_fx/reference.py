"""The method in a few lines of eager float64 PyTorch, straight from the equations: the oracle of the tests.

Nothing here is shared with the operators or the passes. Rows are taken from an image by convolving it with one-hot kernels,
systems are solved by ``torch.linalg.solve``.

Layout: ``X`` is ``(r, n)``, ``dZ`` is ``(r, m)``, the result has the shape of the weight, ``(m, n)`` or ``(m, n, *kernel)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "conv_gradient",
    "conv_rows",
    "dual",
    "linear_gradient",
    "primal",
    "transposed_conv_gradient",
    "transposed_conv_rows",
]

_CONVOLUTION = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


def primal(X: Tensor, dZ: Tensor, lam: float, *, relative: bool = False) -> Tensor:
    """``dZ^T X (X^T X / r + lam I)^-1``, the minimiser of the paper's equation 6 up to sign and step size.

    If ``relative``, ``lam`` is in units of ``tr(X^T X / r) / n``, which is the mean of the squared elements of ``X``.
    """
    X, dZ = X.double(), dZ.double()
    lam = lam * X.square().mean().item() if relative else lam
    covariance = X.T @ X / X.shape[0]
    return torch.linalg.solve(covariance + lam * torch.eye(X.shape[1], dtype=X.dtype), dZ.T @ X, left=False)


def dual(X: Tensor, dZ: Tensor, lam: float, *, relative: bool = False) -> Tensor:
    """``((X X^T / r + lam I)^-1 dZ)^T X``: equal to :func:`primal`, with a system of the size of the rows."""
    X, dZ = X.double(), dZ.double()
    lam = lam * X.square().mean().item() if relative else lam
    kernel = X @ X.T / X.shape[0]
    return torch.linalg.solve(kernel + lam * torch.eye(X.shape[0], dtype=X.dtype), dZ).T @ X


def linear_gradient(input: Tensor, output_gradient: Tensor, lam: float, *, relative: bool = False) -> Tensor:
    """Gradient ``(m, n)`` of a linear layer's weight.

    Args:
        input: ``(*, n)``.
        output_gradient: ``(*, m)``, the gradient with respect to the layer's output.
        lam: the regularisation.
        relative: as for :func:`primal`.
    """
    form = dual if input[..., 0].numel() < input.shape[-1] else primal
    X, dZ = (item.reshape(-1, item.shape[-1]) for item in (input, output_gradient))
    return form(X, dZ, lam, relative=relative)


def conv_rows(input: Tensor, kernel_size: tuple[int, ...], groups: int, **geometry: Any) -> Tensor:
    """Rows ``(groups, r, n)`` that a convolution multiplies, in float64.

    Args:
        input: ``(batch, channels, *spatial)``.
        kernel_size: one entry for each spatial dimension.
        groups: number of groups of channels.
        **geometry: ``stride``, ``padding`` and ``dilation`` as in ``torch.nn.functional.conv2d``.
    """
    channels = input.shape[1] // groups
    features = channels * math.prod(kernel_size)
    one_hot = torch.eye(features, dtype=torch.float64).reshape(features, channels, *kernel_size)
    convolution = _CONVOLUTION[len(kernel_size)]
    return torch.stack(
        [
            convolution(part.double(), one_hot, **geometry).flatten(2).transpose(1, 2).reshape(-1, features)
            for part in input.chunk(groups, dim=1)
        ]
    )


def conv_gradient(
    input: Tensor,
    output_gradient: Tensor,
    weight: Tensor,
    lam: float,
    *,
    groups: int = 1,
    relative: bool = False,
    **geometry: Any,
) -> Tensor:
    """Gradient of a convolution's weight, one system for each group.

    Args:
        input: ``(batch, channels, *spatial)``.
        output_gradient: ``(batch, m, *output)``.
        weight: only its shape is used.
        lam: the regularisation.
        groups: number of groups of channels.
        relative: as for :func:`primal`, for each group.
        **geometry: ``stride``, ``padding`` and ``dilation`` as in ``torch.nn.functional.conv2d``.
    """
    rows = conv_rows(input, tuple(weight.shape[2:]), groups, **geometry)
    return torch.cat(_by_group(rows, output_gradient, lam, relative)).reshape(weight.shape)


def transposed_conv_rows(
    input: Tensor, kernel_size: tuple[int, ...], groups: int, **geometry: tuple[int, ...]
) -> Tensor:
    """Rows ``(groups, r, n)`` of a transposed convolution, in float64: patches of its input with zeros between the pixels.

    The output is an ordinary convolution with stride 1 of that wider input and the kernel turned round, so that features
    are turned round here to be in the order of the weight.

    Args:
        input: ``(batch, channels, *spatial)``.
        kernel_size: one entry for each spatial dimension, as all others.
        groups: number of groups of channels.
        **geometry: ``stride``, ``padding``, ``output_padding`` and ``dilation`` as in
            ``torch.nn.functional.conv_transpose2d``.
    """
    stride, padding, output_padding, dilation = (
        geometry[name] for name in ("stride", "padding", "output_padding", "dilation")
    )
    spatial, dims = input.shape[2:], len(kernel_size)
    sizes = [(size - 1) * step + 1 for size, step in zip(spatial, stride, strict=True)]
    margins = [reach * (size - 1) for size, reach in zip(kernel_size, dilation, strict=True)]
    extents = [size + 2 * margin + more for size, margin, more in zip(sizes, margins, output_padding, strict=True)]
    wide = torch.zeros(*input.shape[:2], *extents, dtype=torch.float64)
    places = [slice(margin, margin + size, step) for margin, size, step in zip(margins, sizes, stride, strict=True)]
    wide[(..., *places)] = input.double()
    kept = [slice(width, extent - width) for width, extent in zip(padding, extents, strict=True)]
    rows = conv_rows(wide[(..., *kept)], kernel_size, groups, stride=1, padding=0, dilation=dilation)
    return rows.unflatten(2, (-1, *kernel_size)).flip(tuple(range(-dims, 0))).flatten(2)


def transposed_conv_gradient(
    input: Tensor,
    output_gradient: Tensor,
    weight: Tensor,
    lam: float,
    *,
    groups: int = 1,
    relative: bool = False,
    **geometry: Any,
) -> Tensor:
    """Gradient of a transposed convolution's weight, one system for each group.

    Args:
        input: ``(batch, channels, *spatial)``.
        output_gradient: ``(batch, groups * m, *output)``.
        weight: ``(channels, m, *kernel)``; only its shape is used.
        lam: the regularisation.
        groups: number of groups of channels.
        relative: as for :func:`primal`, for each group.
        **geometry: as for :func:`transposed_conv_rows`.
    """
    rows = transposed_conv_rows(input, tuple(weight.shape[2:]), groups, **geometry)
    gradients = _by_group(rows, output_gradient, lam, relative)
    return torch.cat([gradient.unflatten(1, (-1, *weight.shape[2:])).transpose(0, 1) for gradient in gradients])


def _by_group(rows: Tensor, output_gradient: Tensor, lam: float, relative: bool) -> list[Tensor]:
    """Gradients ``(m, n)`` from the rows of each group, by the form whose system is the smaller one."""
    form = dual if rows.shape[1] < rows.shape[2] else primal
    return [
        form(X, part.flatten(2).transpose(1, 2).flatten(0, 1), lam, relative=relative)
        for X, part in zip(rows, output_gradient.chunk(len(rows), dim=1), strict=True)
    ]
