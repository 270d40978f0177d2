"""The two sides of the comparison: the same network compiled plain and compiled with TrAct."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

PLAIN = "plain"
TRACT = "TrAct"
SIDES = (PLAIN, TRACT)


class Side:
    """A way to compile a network. `matches` lists the layers that TrAct rewrote, once a step has run."""

    def __init__(self, name: str, lam: float, inner: str) -> None:
        self.name = name
        self._backend = _tract_backend(lam, inner) if name == TRACT else inner

    def compile(self, model: nn.Module) -> nn.Module:
        """A compiled module that shares its parameters with `model`."""
        return torch.compile(model, backend=self._backend)

    @property
    def matches(self) -> tuple[dict[str, Any], ...]:
        """The rewritten layers, each as a dictionary of its record's fields."""
        return tuple(asdict(match) for match in getattr(self._backend, "matches", ()))


def _tract_backend(lam: float, inner: str) -> Any:
    from tract_fx import tract_backend  # here, so that the rest of the demo can be used and tested without it

    return tract_backend(lam=lam, inner=inner)
