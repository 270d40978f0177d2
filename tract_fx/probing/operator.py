"""``tract_fx::observe``: an operator that shows the operands of a weight gradient to Python code and changes nothing.

An operator, because nothing else in a graph survives AOTAutograd, and one whose result is used, because what nobody uses is
removed. It holds a number, not an object; the objects are here, weakly, as long as somebody else wants to know.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from torch import Tensor

from tract_fx import process_state

__all__ = ["Observer", "observe", "register"]


class Observer(Protocol):
    """Takes what one call of a layer computes its weight gradient from; see ``passes/observing_pass.py``."""

    def observe(self, input: Tensor, gradient: Tensor, output_gradient: Tensor, weight: Tensor) -> None:
        """The operands of one backward pass."""


_numbers = itertools.count()


def register(observer: Observer) -> int:
    """The number by which :func:`observe` finds ``observer``, for as long as it lives."""
    number = next(_numbers)
    process_state.observers[number] = observer
    return number


@torch.library.custom_op("tract_fx::observe", mutates_args=())
def observe(input: Tensor, gradient: Tensor, output_gradient: Tensor, weight: Tensor, observer: int) -> Tensor:
    """A copy of ``gradient``, after the observer of that number has seen all four.

    Args:
        input: ``(batch, channels, *spatial)``, or ``(rows, groups * n)`` of a product.
        gradient: ``(groups, m, n)``.
        output_gradient: ``(groups, rows, m)``.
        weight: as ``gradient``.
        observer: from :func:`register`; one that is no more sees nothing.
    """
    found = process_state.observers.get(observer)
    if found is not None:
        found.observe(input, gradient, output_gradient, weight)
    return gradient.clone(memory_format=torch.contiguous_format)


@observe.register_fake
def _(input: Tensor, gradient: Tensor, output_gradient: Tensor, weight: Tensor, observer: int) -> Tensor:
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)
