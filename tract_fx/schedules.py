"""``lam`` as a function of the training step, in the manner of ``torch.optim.lr_scheduler``.

Long training wants a larger ``lam`` than short training does (section 4 of the paper), so it may grow with the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tract_fx.errors import OptionError
from tract_fx.options import check_lam

__all__ = ["CosineLam", "HasLam", "LamScheduler"]


class HasLam(Protocol):
    """A backend of :func:`tract_fx.tract_backend`, or a layer of :func:`tract_fx.TrAct`."""

    lam: float


class LamScheduler:
    """Sets ``lam`` to ``function(step)``: at once for step 0, and at each :meth:`step` for the next one.

    Call :meth:`step` after ``optimizer.step()``, as for a schedule of the learning rate. Setting ``lam`` compiles nothing.
    Where processes share a covariance, each has a schedule of its own, and all step in the same step.

    Args:
        targets: one backend or layer, or several, which all get the same ``lam``.
        function: from the number of steps taken, beginning with 0, to ``lam``.

    Raises:
        OptionError: when a target has no ``lam``, or ``function`` returns anything but a finite positive number.
    """

    def __init__(self, targets: HasLam | Iterable[HasLam], function: Callable[[int], float]) -> None:
        self.targets = _as_targets(targets)
        self.function = function
        self.last_step = 0
        self._set(function(0))

    def step(self) -> None:
        """Go on to the next step."""
        value = check_lam(self.function(self.last_step + 1))
        self.last_step += 1
        self._set(value)

    def get_last_lam(self) -> float:
        """What was set last."""
        return self._last_lam

    def state_dict(self) -> dict[str, Any]:
        """The step and its ``lam``, for a checkpoint; neither the targets nor the function."""
        return {"last_step": self.last_step, "last_lam": self._last_lam}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a schedule where it was saved; the targets have its ``lam`` from now on."""
        self.last_step = state["last_step"]
        self._set(state["last_lam"])

    def _set(self, value: float) -> None:
        self._last_lam = check_lam(value)
        for target in self.targets:
            target.lam = self._last_lam


class CosineLam(LamScheduler):
    """Half a period of a cosine from ``start``, at step 0, to ``end``, at step ``steps`` and after it.

    Args:
        targets: as for :class:`LamScheduler`.
        steps: length of the training, positive.
        start: finite and positive.
        end: finite and positive.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """

    def __init__(
        self, targets: HasLam | Iterable[HasLam], steps: int, *, start: float = 0.05, end: float = 0.2
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise OptionError(f"steps={steps!r} is not allowed: it must be a positive number of steps.")
        self.steps, self.start, self.end = steps, check_lam(start), check_lam(end)
        super().__init__(targets, self._at)

    def _at(self, step: int) -> float:
        passed = min(step, self.steps) / self.steps
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * passed)) / 2

    def state_dict(self) -> dict[str, Any]:
        """As of :class:`LamScheduler`, and the form of the cosine."""
        return {**super().state_dict(), "steps": self.steps, "start": self.start, "end": self.end}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As of :class:`LamScheduler`; the form of the cosine is what was saved, too."""
        self.steps, self.start, self.end = state["steps"], state["start"], state["end"]
        super().load_state_dict(state)


def _as_targets(targets: HasLam | Iterable[HasLam]) -> tuple[HasLam, ...]:
    found: tuple[Any, ...] = (targets,)
    if isinstance(targets, Iterable) and not isinstance(targets, str) and not hasattr(targets, "lam"):
        found = tuple(targets)
    for target in found or (targets,):
        if not hasattr(target, "lam"):
            raise OptionError(
                f"{target!r} has no lam that could be set: give an object that tract_backend(...) or TrAct(...) returned. "
                "A backend by its name has none: use torch.compile(model, backend=tract_backend(...))."
            )
    return found
