"""Channels of images and signals, or features of tables, that stand out: constant ones, copies, other units.

Whether a channel is constant is a question about its own values. That it varies less than another one says only that the two
are in different units.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["constant_channels", "duplicated_channels"]

# Of the largest magnitude of a channel: ten times the rounding of float32, below which there is nothing to learn from.
CONSTANT = 1e-6

# Below this share of its mean, the rounding of the sums of squares would show in a correlation.
MEASURABLE = 1e-4

# Red and green of photographs correlate at 0.9 to 0.99, of nearly grey ones at 0.999; copies rounded to bfloat16 at 0.99999.
COPIES = 0.9999


def constant_channels(std: Tensor, minimum: Tensor, maximum: Tensor) -> tuple[int, ...]:
    """Channels that do not vary beyond the rounding of float32.

    Args:
        std: ``(channels,)``.
        minimum: ``(channels,)``.
        maximum: ``(channels,)``.
    """
    largest = torch.maximum(minimum.abs(), maximum.abs())
    return tuple((std <= CONSTANT * largest).nonzero().flatten().tolist())


def duplicated_channels(mean: Tensor, std: Tensor, products: Tensor) -> tuple[tuple[int, ...], ...]:
    """Sets of channels that are copies of each other up to scale and offset.

    Args:
        mean: ``(channels,)``.
        std: ``(channels,)``.
        products: means of products of two channels, ``(channels, channels)``.
    """
    alive = std > MEASURABLE * mean.abs()
    scale = torch.where(alive, std, 1.0)
    correlation = (products - torch.outer(mean, mean)) / torch.outer(scale, scale)
    alike = (correlation.abs() >= COPIES) & alive[:, None] & alive
    sets: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for index in (alike.sum(1) > 1).nonzero().flatten().tolist():
        if index not in taken:
            members = tuple(alike[index].nonzero().flatten().tolist())
            taken.update(members)
            sets.append(members)
    return tuple(sets)
