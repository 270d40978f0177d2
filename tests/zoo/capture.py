"""What the backend finds in a model: joint graphs are captured, nothing is generated."""

from __future__ import annotations

import dataclasses
import functools
import gc

import torch
from torch import nn

import tract_fx

from .case import Case
from .thin import thin


@dataclasses.dataclass(frozen=True)
class Found:
    """The backend's answer for one model, and the names of its parameters."""

    matches: tuple[tract_fx.LayerMatch, ...]
    rejections: tuple[tract_fx.LayerRejection, ...]
    parameters: frozenset[str]


def capture(case: Case) -> Found:
    """Compile a model without code generation and call it once; no backward pass is run."""
    torch._dynamo.reset()
    _leave_imports_alone()
    torch.manual_seed(0)
    backend = tract_fx.tract_backend(inner="aot_eager", on_unsupported="ignore")
    with case.built() as (model, arguments, keywords):
        if not case.whole:
            thin(model, lambda: model(*arguments, **keywords))
        _compile_and_call(model, backend, arguments, keywords)
    names = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
    return Found(backend.matches, backend.rejections, names)


@functools.cache
def _leave_imports_alone() -> None:
    """Take what has been imported out of the sight of the garbage collector, which would go through it every time."""
    gc.collect()
    gc.freeze()


def _compile_and_call(model: nn.Module, backend: tract_fx.TractBackend, arguments: tuple, keywords: dict) -> None:
    # Tracing makes millions of small objects that live until its end: collecting in between only costs time.
    gc.collect()
    gc.disable()
    try:
        torch.compile(model, backend=backend)(*arguments, **keywords)
    finally:
        gc.enable()
