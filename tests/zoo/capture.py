"""What the backend finds in a model: joint graphs are captured, nothing is generated."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from unittest import mock

import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop

import tract_fx
from tract_fx import compat

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
    gc.freeze()  # what has survived is not looked at again
    gc.disable()
    try:
        # Where breaks make one frame of every layer, each layer is a recompile of it, and all of them are to be seen.
        with torch._dynamo.config.patch(recompile_limit=64), mock.patch.object(compat, "aot_eager", _joint_graph_only):
            torch.compile(model, backend=backend)(*arguments, **keywords)
    finally:
        gc.enable()


class _CapturedError(Exception):
    """Ends a compilation that has served its purpose."""


def _joint_graph_only(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any], joint_pass: Callable[[torch.fx.Graph], None]
) -> Callable[..., Any]:
    """In the place of :func:`tract_fx.compat.aot_eager`: the pass runs, and what comes after it is left out."""

    def partition(joint_module: torch.fx.GraphModule, *_: Any, **__: Any) -> NoReturn:
        joint_pass(joint_module.graph)
        raise _CapturedError

    with contextlib.suppress(_CapturedError):
        aot_autograd(fw_compiler=boxed_nop, partition_fn=partition, keep_inference_input_mutations=True)(
            gm, example_inputs
        )
    return gm.forward
