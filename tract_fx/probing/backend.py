"""Compiling a model so that its first layers are observed, and so that nothing of it stays in Dynamo."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from tract_fx import compat
from tract_fx.backend import TractBackend
from tract_fx.compile.captured import Captured
from tract_fx.compile.compilers import Compiled
from tract_fx.compile.lam_input import LamInput
from tract_fx.compile.reporting import FindingsRecorder
from tract_fx.errors import ProbeError, TractError
from tract_fx.inspect.formatting import describe_layer
from tract_fx.ops.patches import PatchGeometry
from tract_fx.passes.first_layer import Match
from tract_fx.passes.observing_pass import Observe, ObservingPass
from tract_fx.probing.observer import StreamingObserver
from tract_fx.probing.operator import observe, register

__all__ = ["LayerObservers", "ObservedLayer", "isolated_compile"]


class ObservedLayer:
    """A layer with what has been observed of it."""

    def __init__(self, match: Match, observer: StreamingObserver) -> None:
        self.layer = match.layer
        self.weights = match.weights
        self.description = describe_layer(match)
        self.features = int(match.features)
        self.observer = observer
        self.number = register(observer)


class LayerObservers:
    """Compiles graphs without code generation, and has every layer observed that TrAct would rewrite.

    A layer that is in several graphs - batches of several sizes - or is called several times is observed by one observer.

    Args:
        lams: at which gradients are measured.
        relative: whether they are in units of the mean eigenvalue.

    Attributes:
        layers: what was found, by identity.
    """

    def __init__(self, lams: Sequence[float], *, relative: bool = False) -> None:
        self.lams = tuple(lams)
        self.relative = relative
        self.layers: dict[tuple[Any, ...], ObservedLayer] = {}

    def expect(self, samples: int) -> None:
        """A batch of so many examples is about to run."""
        self._samples = samples
        for layer in self.layers.values():
            layer.observer.samples = samples

    def compile_graph(self, captured: Captured, lam: LamInput) -> Compiled:
        """Compile one captured graph; ``lam`` does not affect what is observed."""
        del lam
        findings = FindingsRecorder(captured.settings)
        observing = ObservingPass(
            captured.inputs, captured.settings.layers, self._observer, findings, naming=captured.naming
        )
        call = compat.aot_eager(captured.gm, captured.example_inputs, observing)
        return Compiled(call, findings.record, traced=True)

    def _observer(self, match: Match, geometry: PatchGeometry, outputs: int) -> Observe:
        own = match.call.geometry  # that of a batched product has a number of groups, which may be a symbol
        key = (match.layer, match.weights, own, int(match.features), match.shared_batch)
        if key not in self.layers:
            shared = match.shared_batch
            observer = StreamingObserver(own, int(outputs), shared, self.lams, relative=self.relative)
            observer.samples = self._samples
            self.layers[key] = ObservedLayer(match, observer)
        return functools.partial(observe, observer=self.layers[key].number)


@contextlib.contextmanager
def isolated_compile(model: nn.Module, backend: TractBackend) -> Iterator[Callable[..., Any]]:
    """``torch.compile(model, backend=backend)`` for as long as the context lasts; Dynamo then forgets it.

    Raises:
        TractError: of the backend, without what Dynamo wraps around it.
        ProbeError: for anything else that goes wrong while compiling.
    """
    with compat.isolated_dynamo_state():
        try:
            yield torch.compile(model, backend=backend)
        except compat.BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, TractError):
                raise inner from None
            raise ProbeError(f"The model could not be compiled ({type(inner).__name__}: {inner}).") from error
