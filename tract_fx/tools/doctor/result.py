"""What the doctor found; nothing here needs a supported PyTorch."""

from __future__ import annotations

import dataclasses
import enum
import platform
from importlib import metadata
from typing import Any

__all__ = ["Check", "Checkup", "State", "versions"]

REQUIRED = ("torch", "triton", "tract-fx")
OPTIONAL = ("timm", "torchvision", "transformers", "torch-tract")


class State(enum.Enum):
    """How a check went."""

    WORKS = "works"
    LIMITED = "limited"
    """Something is not there; TrAct trains without it."""
    BROKEN = "broken"


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: how it went.
        detail: what was seen.
        advice: what to do about it, if anything.
    """

    name: str
    state: State
    detail: str
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Checkup:
    """Everything that was looked at."""

    versions: dict[str, str | None]
    devices: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def is_fine(self) -> bool:
        """Whether nothing is broken."""
        return all(check.state is not State.BROKEN for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """For tools."""
        checks = [dataclasses.asdict(check) | {"state": check.state.value} for check in self.checks]
        return {"is_fine": self.is_fine, "versions": self.versions, "devices": list(self.devices), "checks": checks}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter here; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
