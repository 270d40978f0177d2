"""One case: trained with the pass, with a plain compile and by the oracle; and what the three must have in common."""

from __future__ import annotations

import enum
import functools

import torch
from torch import Tensor

from tract_fx import UnsupportedLayerError, tract_backend

from .network import Case, make_case
from .oracle import error
from .training import Run, train, train_by_oracle

__all__ = ["FuzzError", "Outcome", "check_seed"]

TOLERANCE = {"float32": 1e-5, "float64": 1e-11, "bfloat16": 0.0}
# Between two compiles by Inductor under bfloat16, which has 8 bits: one rounds a value that is stored for the backward pass,
# the other keeps it in float32 inside of a kernel, and a sum over it in which terms cancel shows more of the difference.
FUSED_LOW_PRECISION = 0.05


class FuzzError(AssertionError):
    """A promise that a network of the fuzz breaks; its text has the network and how to replay it."""


class Outcome(enum.Enum):
    """How a seed passes."""

    RIGHT = "right"
    MAGNIFIED = "a gradient's error is that of rounding which the solve magnifies"
    NO_PLAIN_COMPILE = "the plain compile fails in the same way"


def check_seed(seed: int, inner: str = "aot_eager") -> Outcome:
    """Build the network of a seed and check it.

    Raises:
        FuzzError: naming everything that is not as it must be.
    """
    case = make_case(seed)
    try:
        problems, outcome = _problems(case, seed, inner)
    except Exception as failure:
        problems = [f"{type(failure).__name__}: {failure}"]
        raise FuzzError(_report(case, seed, inner, problems)) from failure
    if problems:
        raise FuzzError(_report(case, seed, inner, problems))
    return outcome


def _report(case: Case, seed: int, inner: str, problems: list[str]) -> str:
    found = "\n".join(f"- {problem}" for problem in problems)
    return f"seed {seed}: replay with: python -m tests.fuzz --seed {seed} --inner {inner}\n{found}\n\n{case}"


def _problems(case: Case, seed: int, inner: str) -> tuple[list[str], Outcome]:
    backend = tract_backend(case.lams[0], inner=inner)
    tract = train(case, seed, backend)
    if case.net.unsupported:
        return _expect_refusal(tract), Outcome.RIGHT
    plain = train(case, seed, inner)
    if tract.failure is not None or plain.failure is not None:
        if repr(tract.failure) == repr(plain.failure):
            return [], Outcome.NO_PLAIN_COMPILE
        raise tract.failure or plain.failure
    expected = _Expected(case, seed)
    problems = _compare_matches(case, tract) + _compare_values(case, tract, plain, expected, inner == "inductor")
    return problems, Outcome.MAGNIFIED if expected.needed_conditioning else Outcome.RIGHT


def _expect_refusal(tract: Run) -> list[str]:
    causes, failure = [], tract.failure
    while failure is not None:
        causes.append(failure)
        failure = failure.__cause__ or failure.__context__
    if any(isinstance(cause, UnsupportedLayerError) or "TrAct cannot be applied to" in str(cause) for cause in causes):
        return []
    return [f"a layer that cannot be rewritten raises no UnsupportedLayerError, but {tract.failure!r}"]


def _compare_matches(case: Case, tract: Run) -> list[str]:
    wanted = sorted(call.weight for call in case.net.calls_with_gradient())
    found = sorted(tract.matches)
    problems = []
    # Other batch sizes are other graphs, with the same matches again.
    if (found != wanted) if len(case.batches) == 1 else (set(found) != set(wanted)):
        problems.append(f"backend.matches are {found}, first layers are {wanted}")
    warned = case.net.warned_segments()
    if bool(warned) != bool(tract.warned):
        problems.append(f"graphs without a first layer are {warned}, warnings are {tract.warned}")
    return problems


class _Expected:
    """What the oracle says of one case, and how far from it a right implementation may be."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case, self._seed = case, seed
        self.gradients = train_by_oracle(case, seed)
        self.needed_conditioning = 0

    @functools.cached_property
    def plain(self) -> Run:
        """The plain gradients in float64."""
        return train_by_oracle(self._case, self._seed, with_lam=False)

    @functools.cached_property
    def from_rounded(self) -> Run:
        """The closed form applied to the plain gradient that the network itself computes, without a compiler."""
        return train_by_oracle(self._case, self._seed, exact=False)

    def allowed(self, step: int, name: str, plain: Tensor | None) -> float:
        """The largest error that keeps the promise."""
        tolerance = TOLERANCE[self._case.dtype]
        if not self._case.reduced:
            return tolerance
        # What no cast reaches is as exact as ever.
        return max(tolerance, 2 * error(plain, self.plain.steps[step][name]))

    def allowed_by_conditioning(self, step: int, name: str) -> float:
        """The largest error that the rounding of rows and plain gradient explains.

        The system that is solved magnifies it, most where rows are few or alike. It is the error that the closed form has
        when it is applied in float64 to the network's own plain gradient.
        """
        self.needed_conditioning += 1
        return 2 * error(self.from_rounded.steps[step][name], self.gradients.steps[step][name])


def _compare_values(case: Case, tract: Run, plain: Run, expected: _Expected, inductor: bool = False) -> list[str]:
    """Everything that a first layer does not change is the same bit by bit; through Inductor, which fuses other
    operations when other values are kept for the backward pass, up to rounding."""
    affected = frozenset().union(*(call.parameters for call in case.net.calls_with_gradient()))
    problems = []
    for step, values in enumerate(tract.steps):
        for name, found in values.items():
            other = plain.steps[step][name]
            if name not in affected:
                if not _same(found, other) and not (inductor and _is_rounding(case, found, other)):
                    problems.append(f"step {step}: {name} differs from that of the plain compile")
            elif (found is None) != (other is None):
                problems.append(f"step {step}: gradient of {name} is {found}, and {other} in the plain compile")
            else:
                problems += _compare_gradient(step, name, found, other, expected)
    return problems


def _compare_gradient(
    step: int, name: str, found: Tensor | None, plain: Tensor | None, expected: _Expected
) -> list[str]:
    wanted = expected.gradients.steps[step][name]
    size, allowed = error(found, wanted), expected.allowed(step, name, plain)
    if size <= allowed or size <= (allowed := max(allowed, expected.allowed_by_conditioning(step, name))):
        return []
    return [
        f"step {step}: gradient of {name}: error {size:.2e}, allowed {allowed:.2e}; "
        f"the plain gradient differs by {error(plain, wanted):.2e}"
    ]


def _is_rounding(case: Case, found: Tensor | None, plain: Tensor | None) -> bool:
    if found is None or plain is None:
        return False
    return error(found, plain) <= (FUSED_LOW_PRECISION if case.reduced else TOLERANCE[case.dtype])


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right) or bool(left.isnan().any() and right.isnan().any())
