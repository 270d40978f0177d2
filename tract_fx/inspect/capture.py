"""Joint graphs of a model as the pass sees them, before and after; nothing is generated and nothing is trained."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from tract_fx import compat
from tract_fx.backend import TractBackend
from tract_fx.compile.captured import Captured
from tract_fx.compile.compilers import Compiled
from tract_fx.compile.lam_input import LamInput
from tract_fx.compile.reporting import FindingsRecorder
from tract_fx.errors import CaptureError, TractError
from tract_fx.inspect.causes import first_cause, in_words, quiet
from tract_fx.inspect.fake_model import fake_arguments, fake_model, has_values
from tract_fx.inspect.model_copy import copy_or_stand_in
from tract_fx.options import TractOptions
from tract_fx.passes.first_layer import Findings, Match
from tract_fx.passes.joint_graph import GraphInput
from tract_fx.passes.naming import Naming
from tract_fx.records import GraphRecord

__all__ = ["Capture", "CapturedGraph", "capture"]


@dataclasses.dataclass(frozen=True)
class CapturedGraph:
    """One joint graph.

    Attributes:
        before: as the pass gets it.
        after: as the pass leaves it.
        described: what the caller made of each match while its graph was as before.
        record: the findings, as ``backend.matches`` and ``backend.rejections`` have them.
        break_reason: why Dynamo ended the graph before its function returned; None where it did not.
        naming: how its layers are called.
        inputs: the name and the role of each input of the graph that Dynamo captured.
    """

    before: GraphModule
    after: GraphModule
    described: tuple[Any, ...]
    record: GraphRecord
    break_reason: str | None
    naming: Naming
    inputs: tuple[GraphInput, ...]


@dataclasses.dataclass(frozen=True)
class Capture:
    """All joint graphs of one call.

    Attributes:
        graphs: in the order in which Dynamo made them.
        untraced: what Dynamo could not trace, in its words, where it ended no graph: such code runs eagerly.
        on_values: why real tensors had to be used; None when fake ones would do.
    """

    graphs: tuple[CapturedGraph, ...]
    untraced: tuple[str, ...] = ()
    on_values: str | None = None


def capture(
    model: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    options: TractOptions,
    *,
    describe: Callable[[Match, GraphModule], Any] = lambda match, graph: None,
    backward_of: Callable[[Any], Any] | None = None,
    dynamic: bool | None = None,
) -> Capture:
    """Trace one call of a model with gradients enabled.

    The model is copied onto fake tensors. Where its Python code asks for values (detection models, ``.item()`` between
    two graphs) a copy with values is used. A model that cannot be copied runs itself, on such tensors in the place of
    its own, which it gets back. A function cannot be copied: it runs on the models it refers to, with fake tensors in the
    place of everything it computes.

    Args:
        model: a module or function; what ``torch.compile`` returned is unwrapped.
        arguments: positional arguments of the call.
        keywords: keyword arguments of the call.
        options: of the backend.
        describe: called with each match and the graph that holds it, before the graph is changed.
        backward_of: takes from the model's output what the loss is made of.
        dynamic: as in ``torch.compile``.

    Raises:
        CaptureError: when the model cannot be traced; the message has the reason.
    """
    model = compat.compiled_module(model) or model
    _check_shapes(model)

    def on(called: Callable[..., Any], arguments: Any, keywords: Any, mode: Any) -> Capture:
        recorder = _GraphRecorder(describe, mode)
        backend = TractBackend(options, recorder, trains=False)
        whole = called if backward_of is None else lambda *args, **kwargs: backward_of(called(*args, **kwargs))
        with _tracing(), mode or contextlib.nullcontext():
            torch.compile(whole, backend=backend, dynamic=dynamic)(*arguments, **keywords)
            ended = {graph.break_reason for graph in recorder.graphs}
            untraced = tuple(reason for reason in compat.break_reasons() if reason not in ended)
        return Capture(tuple(recorder.graphs), untraced)

    mode = compat.FakeTensorMode(allow_non_fake_inputs=True)
    try:
        fake_args, fake_kwargs = fake_arguments((arguments, keywords), mode)
        with fake_model(model, mode) if isinstance(model, nn.Module) else contextlib.nullcontext(model) as fake:
            return on(fake, fake_args, fake_kwargs, mode)
    except Exception as error:
        cause = first_cause(error)
        if isinstance(cause, TractError):
            raise cause from None
        without = in_words(cause)
        if not has_values(model, arguments, keywords):
            raise CaptureError(f"The model could not be traced without the values of its tensors. {without}") from error
    try:
        with copy_or_stand_in(model) if isinstance(model, nn.Module) else contextlib.nullcontext(model) as copied:
            return dataclasses.replace(on(copied, arguments, keywords, None), on_values=without)
    except Exception as error:
        raise CaptureError(f"The model could not be traced. {in_words(first_cause(error))}") from error


def _check_shapes(model: Callable[..., Any]) -> None:
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    if any(isinstance(item, (nn.UninitializedParameter, nn.UninitializedBuffer)) for item in tensors):
        raise CaptureError(
            f"{type(model).__name__} is lazy: some of its parameters have no shape yet. Run a batch through the model first."
        )


class _GraphRecorder:
    """Compiles a graph no further than the pass, and keeps what the pass got and left.

    Args:
        describe: as in :func:`capture`.
        mode: of the fake tensors on which the model runs; None where it runs on values.
    """

    def __init__(self, describe: Callable[[Match, GraphModule], Any], mode: compat.FakeTensorMode | None) -> None:
        self.describe = describe
        self.mode = mode
        self.graphs: list[CapturedGraph] = []

    def __call__(self, captured: Captured, lam: LamInput) -> Compiled:
        """Trace and rewrite the joint graph of one captured graph."""
        reason = compat.break_reason(captured.gm)
        record = GraphRecord()

        def keep(module: GraphModule) -> None:
            nonlocal record
            before = _copied(module)
            findings = FindingsRecorder(captured.settings)
            described: list[Any] = []

            def look(found: Findings) -> None:
                findings(found)
                described.extend(self.describe(match, before) for match in found.matches)

            captured.tract_pass(lam, look, decompositions=compat.inductor_decompositions)(module.graph)
            module.recompile()
            record = findings.record
            graph = CapturedGraph(before, module, tuple(described), record, reason, captured.naming, captured.inputs)
            self.graphs.append(graph)

        compat.joint_graph_only(captured.gm, captured.example_inputs, keep, compat.inductor_decompositions())
        return Compiled(self._shapes_of(captured.gm), record, traced=True)

    def _shapes_of(self, gm: GraphModule) -> Callable[..., Any]:
        """What the rest of the call gets from this graph: fake tensors, whatever it was given."""
        mode = self.mode
        if mode is None:
            return gm.forward

        def run(*inputs: Any) -> Any:
            with mode:
                return gm.forward(*fake_arguments(inputs, mode))

        return run


def _copied(module: GraphModule) -> GraphModule:
    with warnings.catch_warnings():  # torch 2.11 copies its own tree specifications in a way that it has deprecated
        warnings.simplefilter("ignore", FutureWarning)
        return GraphModule(module, copy.deepcopy(module.graph))


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Enable gradients, isolate Dynamo's state, and pause garbage collection: objects made by tracing live until its end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with (
            torch.enable_grad(),
            compat.isolated_dynamo_state(),
            torch.random.fork_rng(devices=()),
            quiet("torch._subclasses.fake_tensor"),
            quiet("torch._dynamo.variables.tensor"),
        ):
            yield
    finally:
        if enabled:
            gc.enable()
