"""Schedules of ``lam`` over the training steps, in the style of ``torch.optim.lr_scheduler``.

The paper uses a larger ``lam`` for long training than for short training (section 4), so ``lam`` may grow with the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from tract_fx.errors import OptionError
from tract_fx.options import check_count, check_lam

__all__ = ["CosineLam", "HasLam", "LamScheduler"]


class HasLam(Protocol):
    """An object with a ``lam`` that can be set: a backend from ``tract_backend`` or a layer from ``TrAct``."""

    lam: float


class LamScheduler:
    """Sets ``lam`` to ``function(step)``: to ``function(0)`` when it is created, and to the next value at each :meth:`step`.

    Call :meth:`step` after ``optimizer.step()``, as for a learning rate schedule. A new ``lam`` does not cause a recompile.
    Where processes share a covariance, each process has its own schedule, and all of them call :meth:`step` together.

    Args:
        targets: one backend or layer, or several, which all get the same ``lam``.
        function: maps the number of steps taken, starting at 0, to ``lam``.

    Attributes:
        targets: the backends and layers, as a tuple.
        function: as given.
        last_step: number of steps taken.

    Raises:
        OptionError: when a target has no ``lam``, ``function`` is no function, or it returns anything but a finite positive
            number.
    """

    def __init__(self, targets: HasLam | Iterable[HasLam], function: Callable[[int], float]) -> None:
        if not callable(function):
            raise OptionError(f"function={function!r} is not allowed: it must map the number of a step to lam.")
        self.targets = _as_targets(targets)
        self.function = function
        self.last_step = 0
        self._set(function(0))

    def step(self) -> None:
        """Set ``lam`` for the next step.

        Raises:
            OptionError: when ``function`` returns anything but a finite positive number; nothing changes then.
        """
        value = check_lam(self.function(self.last_step + 1))
        self.last_step += 1
        self._set(value)

    def get_last_lam(self) -> float:
        """The ``lam`` that was set last."""
        return self._last_lam

    def state_dict(self) -> dict[str, Any]:
        """The step and its ``lam``, to be saved in a checkpoint; it holds neither the targets nor the function."""
        return {"last_step": self.last_step, "last_lam": self._last_lam}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume a schedule that was saved, and set its ``lam`` on the targets.

        Args:
            state: from :meth:`state_dict` of a schedule of the same class.

        Raises:
            OptionError: naming what is missing from the state or not allowed in it; nothing changes then.
        """
        self._check_entries(state)
        step, lam = check_count(state["last_step"], "last_step", 0), check_lam(state["last_lam"], "last_lam")
        self.last_step = step
        self._set(lam)

    def _check_entries(self, state: object) -> None:
        expected = self.state_dict().keys()
        if not isinstance(state, Mapping) or state.keys() != expected:
            found = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise OptionError(
                f"state is not that of a {type(self).__name__}: it must have {', '.join(expected)}, and has {found}."
            )

    def _set(self, value: float) -> None:
        self._last_lam = check_lam(value)
        for target in self.targets:
            target.lam = self._last_lam


class CosineLam(LamScheduler):
    """Half a cosine period from ``start``, at step 0, to ``end``, at step ``steps`` and after it.

    Args:
        targets: as for :class:`LamScheduler`.
        steps: length of the training in steps, positive.
        start: ``lam`` at step 0, finite and positive.
        end: ``lam`` at step ``steps`` and after it, finite and positive.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """

    def __init__(
        self, targets: HasLam | Iterable[HasLam], steps: int, *, start: float = 0.05, end: float = 0.2
    ) -> None:
        self.steps = check_count(steps, "steps", 1)
        self.start, self.end = check_lam(start, "start"), check_lam(end, "end")
        super().__init__(targets, self._at)

    def _at(self, step: int) -> float:
        passed = min(step, self.steps) / self.steps
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * passed)) / 2

    def state_dict(self) -> dict[str, Any]:
        """As in :class:`LamScheduler`, together with ``steps``, ``start`` and ``end``."""
        return {**super().state_dict(), "steps": self.steps, "start": self.start, "end": self.end}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As in :class:`LamScheduler`; ``steps``, ``start`` and ``end`` are restored, too."""
        self._check_entries(state)
        steps = check_count(state["steps"], "steps", 1)
        start, end = check_lam(state["start"], "start"), check_lam(state["end"], "end")
        super().load_state_dict(state)
        self.steps, self.start, self.end = steps, start, end


def _as_targets(targets: HasLam | Iterable[HasLam]) -> tuple[HasLam, ...]:
    found: tuple[Any, ...] = (targets,)
    if isinstance(targets, Iterable) and not isinstance(targets, str) and not hasattr(targets, "lam"):
        found = tuple(targets)
    for target in found or (targets,):
        if not hasattr(target, "lam"):
            raise OptionError(
                f"{_in_one_line(target)} has no lam that could be set: give an object that tract_backend(...) or TrAct(...) "
                'returned, or, for a model that was compiled with backend="tract", tract_fx.backend_of(model).'
            )
    return found


def _in_one_line(value: object) -> str:
    """``repr``, or the class of what has a long one, such as a model."""
    text = repr(value)
    return text if len(text) <= 100 and "\n" not in text else f"{type(value).__name__}(...)"
