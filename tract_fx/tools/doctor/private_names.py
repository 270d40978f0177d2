"""Whether the installed PyTorch has every private name that is needed."""

from __future__ import annotations

from tract_fx.private_names import PRIVATE_NAMES, SUPPORTED, problems
from tract_fx.tools.doctor.result import Check, State

__all__ = ["check_private_names"]

ADVICE = f"Install a supported release of torch ({SUPPORTED}), or a release of tract-fx that supports this one."


def check_private_names() -> tuple[Check, ...]:
    """One check for each private name that is missing or has another signature, or a single one that says there is none."""
    found = problems()
    if not found:
        return (
            Check("private names of PyTorch", State.WORKS, f"{len(PRIVATE_NAMES)} names are as in torch {SUPPORTED}"),
        )
    return tuple(Check(str(name), State.BROKEN, f"torch {problem}", ADVICE) for name, problem in found.items())
