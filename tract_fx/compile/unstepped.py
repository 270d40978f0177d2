"""Runs a check after a few backward passes, for training that no optimiser of ``torch.optim`` steps.

Loops that update weights by hand, and optimisers that step copies of the weights, as DeepSpeed's and those with master
weights do, run no hook of ``torch.optim`` or none that knows the weights of the model. Gradients arrive at these weights all
the same. One hook on one weight counts them and removes itself, so that later steps cost nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch

from tract_fx import compat, process_state

__all__ = ["BACKWARD_PASSES", "after_backward_passes"]

# By then an optimiser would have stepped, unless gradients are accumulated; parts that run by turns have had theirs.
BACKWARD_PASSES = 3

Check = Callable[[torch.Tensor], None]


def after_backward_passes(parameters: Iterable[torch.Tensor], check: Check) -> None:
    """Call ``check`` with the first trainable weight at the end of the third backward pass that reaches it.

    Args:
        parameters: those of a model or a graph, in any order. Without a plain trainable one, nothing is done.
        check: what it raises is raised by ``backward()``.
    """
    for parameter in parameters:
        if type(parameter) is torch.nn.Parameter and parameter.requires_grad and parameter.dim() > 1:
            if process_state.counted.get(id(parameter)) is not parameter:
                process_state.counted[id(parameter)] = parameter
                _Countdown(parameter, check)
            return


class _Countdown:
    """A hook on the gradient of a weight, which goes to no other process with it."""

    __torch_unserializable__ = True

    def __init__(self, parameter: torch.Tensor, check: Check) -> None:
        self._parameter = weakref.ref(parameter)
        self._check = check
        self._left = BACKWARD_PASSES
        self._handle = parameter.register_hook(self)

    def __call__(self, _: torch.Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        self._left -= 1
        if self._left == 0:
            self._handle.remove()
            compat.at_end_of_backward_pass(self._run)

    def _run(self) -> None:
        parameter = self._parameter()
        if parameter is not None:
            self._check(parameter)
