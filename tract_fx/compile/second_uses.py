"""Notices a gradient of a rewritten weight that comes from code that is not compiled.

Such code adds a plain gradient to the new one. A hook on the backward pass of each compiled graph keeps the gradient that it
computed for a rewritten weight; one on the weight compares it with the one that arrives, by identity: a sum is another
tensor. No value is read, and no device is waited for, before they differ for the first time. Where several graphs, or
several calls of one, compute gradients of a weight in one backward pass, what arrives is a sum anyway, and nothing is said.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.hooks import unserializable_hook

from tract_fx import compat, process_state
from tract_fx.errors import TractWarning

__all__ = ["watch", "watching"]

# A share of the squares of a gradient that counts as rounding.
ROUNDING = 1e-3


class Watch:
    """What arrives at one rewritten weight.

    Args:
        name: of the parameter.
        parameter: held weakly.
    """

    def __init__(self, name: str, parameter: torch.Tensor) -> None:
        self.name = name
        self._parameter = weakref.ref(parameter)
        self._produced: list[torch.Tensor] = []
        self._task = -1
        self._told = False

    def produced(self, gradient: torch.Tensor) -> None:
        """Keep the gradient of a graph until it arrives, or the next backward pass begins."""
        if (task := compat.current_backward_pass()) != self._task:
            self._produced.clear()
            self._task = task
        self._produced.append(gradient)

    @unserializable_hook  # a weight that another process shares goes there without it
    def arrived(self, gradient: torch.Tensor) -> None:
        """Compare; called before the gradient is accumulated."""
        produced, self._produced = self._produced, []
        if self._told or len(produced) != 1 or produced[0] is gradient or compat.current_backward_pass() != self._task:
            return
        self._told = True
        parameter = self._parameter()
        if parameter is None or _is_penalty(gradient - produced[0], parameter.detach(), gradient):
            return
        warnings.warn(
            f"TrAct is not applied to all uses of {self.name}: code that is not compiled uses it too, and adds its gradient "
            "to the new one. If that code calls the layer, compile it; if it is a penalty on the weight, nothing is wrong. "
            'on_unsupported="ignore" silences this.',
            TractWarning,
            stacklevel=2,
        )


def watch(parameters: Mapping[str, torch.Tensor]) -> None:
    """Watch rewritten weights, by name; one that is watched, or no plain tensor, is left alone."""
    for name, parameter in parameters.items():
        known = process_state.watches.get(id(parameter))
        if known is None and type(parameter) is torch.nn.Parameter and parameter.requires_grad:
            found = Watch(name, parameter)
            process_state.watches[id(parameter)] = found
            compat.register_first_hook(parameter, found.arrived)


def watching(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which runs a compiled graph, and a hook on its backward pass where that has gradients of watched weights."""
    known: list[tuple[int, weakref.ref[Watch]]] = []
    counted = 0

    def run(*args: Any) -> Any:
        nonlocal known, counted
        outputs = call(*args)
        if process_state.watches and torch.is_grad_enabled() and (node := _backward_of(outputs)) is not None:
            if counted != len(process_state.watches):
                counted, known = len(process_state.watches), _watched_inputs(node)
            if known:
                node.register_hook(_producing(known))
        return outputs

    return run


def _producing(known: Sequence[tuple[int, weakref.ref[Watch]]]) -> Callable[[Any, Any], None]:
    def hook(gradients: tuple[torch.Tensor | None, ...], _: Any) -> None:
        for position, reference in known:
            found, gradient = reference(), gradients[position]
            if found is not None and gradient is not None:
                found.produced(gradient)

    return hook


def _backward_of(outputs: Any) -> Any | None:
    """The node of the backward pass of the graph whose outputs these are; None where there is none, or it is hidden."""
    for output in outputs:
        node = output.grad_fn if isinstance(output, torch.Tensor) else None
        if node is not None and compat.is_compiled_function(node):
            return node
    return None


def _watched_inputs(node: Any) -> list[tuple[int, weakref.ref[Watch]]]:
    found = []
    for position, (following, _) in enumerate(node.next_functions):
        variable = getattr(following, "variable", None)
        known = None if variable is None else process_state.watches.get(id(variable))
        if known is not None:
            found.append((position, weakref.ref(known)))
    return found


def _is_penalty(extra: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> bool:
    """Whether a gradient is that of a usual penalty on the weight: a multiple of the weight, or of its signs, or nothing."""
    extra, weight = extra.double().flatten(), weight.double().flatten()
    size = extra.norm()
    if not size > 1e-6 * gradient.double().norm():
        return True
    alike = [torch.dot(extra, other) / (size * other.norm()) for other in (weight, weight.sign())]
    return any(bool(abs(cosine) > 1 - ROUNDING) for cosine in alike)
