"""What is found in a model: joint graphs are captured, nothing is generated."""

from __future__ import annotations

import dataclasses
import functools
import gc

import torch

import tract_fx

from .case import Case
from .thin import thin


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer for one model, and the names of its parameters."""

    matches: tuple[tract_fx.LayerMatch, ...]
    rejections: tuple[tract_fx.LayerRejection, ...]
    parameters: frozenset[str]


def capture(case: Case) -> Found:
    """Explain one call of the model."""
    torch._dynamo.reset()
    _leave_imports_alone()
    torch.manual_seed(0)
    gc.collect()
    gc.freeze()  # what has survived is not looked at again
    with case.built() as (model, arguments, keywords):
        if not case.whole:
            thin(model, lambda: model(*arguments, **keywords))
    explanation = tract_fx.explain(model, *arguments, **keywords)
    names = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
    return Found(explanation.matches, explanation.rejections, names)


@functools.cache
def _leave_imports_alone() -> None:
    """Take what has been imported out of the sight of the garbage collector, which would go through it every time."""
    gc.collect()
    gc.freeze()
