"""Notices a gradient of a rewritten weight that comes from code that is not compiled.

Such code adds a plain gradient to the new one. A hook on the backward pass of each compiled graph keeps the gradient that it
computed for a rewritten weight; one on the weight compares it with the one that arrives, by identity: a sum is another
tensor. No value is read, and no device is waited for, while they are the same. Where they differ, a penalty on the weight
may be all, today: the first time, the second, the fourth and so on are looked at, so that a use that begins later is found,
and the looking costs nothing. Where several graphs, or calls of one, compute gradients of a weight in one backward pass,
what arrives is a sum anyway, and nothing is said.
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
# Features for each direction that a row of a penalty's gradient may have: with fewer, any gradient is near such a row.
ENOUGH_FEATURES = 4


class Watch:
    """What arrives at one rewritten weight.

    Args:
        name: of the parameter.
        parameter: held weakly.
    """

    def __init__(self, name: str, parameter: torch.Tensor) -> None:
        self.name = name
        self._parameter = weakref.ref(parameter)
        self._start: torch.Tensor | None = None
        self._produced: list[torch.Tensor] = []
        self._task = -1
        self._differed = 0
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
        self._differed += 1
        parameter = self._parameter()
        if parameter is None or self._differed.bit_count() > 1:
            return
        if self._start is None:
            self._start = parameter.detach().clone()
        if _is_penalty(gradient - produced[0], parameter.detach(), self._start, gradient):
            return
        self._told = True
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


def _is_penalty(extra: torch.Tensor, weight: torch.Tensor, start: torch.Tensor, gradient: torch.Tensor) -> bool:
    """Whether a gradient is that of a usual penalty on the weight, or nothing.

    For each output, penalties on the weight, its size, its signs or its distance from the start have a gradient made of the
    weight, its signs and that distance; penalties on products of outputs, as for orthogonality, have one made of all
    outputs' weights. What data make is neither.

    Args:
        extra: the gradient that is looked at.
        weight: in the same shape.
        start: the weight when a difference was first seen.
        gradient: of everything, which says what is nothing.
    """
    outputs = len(weight) if weight.dim() > 1 else 1
    extra, weight, start = (item.to(torch.float64).reshape(outputs, -1) for item in (extra, weight, start))
    size = extra.norm()
    if not size > 1e-6 * gradient.to(torch.float64).norm():
        return True
    own, features = torch.stack([weight, weight.sign(), weight - start], 2), weight.shape[1]
    if ENOUGH_FEATURES * own.shape[2] > features:  # so few that the outputs are taken together
        return _is_in(extra.flatten()[None], own.flatten(0, 1)[None], size)
    return _is_in(extra, own, size) or (2 * outputs <= features and _is_in(extra, weight.T[None], size))


def _is_in(rows: torch.Tensor, span: torch.Tensor, size: torch.Tensor) -> bool:
    """Whether rows lie in the spans of columns, but for rounding: ``(rows, features)`` and ``(rows or 1, features, n)``."""
    directions = torch.linalg.qr(span).Q
    left = rows[:, :, None] - directions @ (directions.mT @ rows[:, :, None])
    return bool(left.norm() ** 2 < ROUNDING * size**2)
