"""The Dynamo backend: Inductor with the TrAct pass."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tract_fx import compat
from tract_fx.errors import TractWarning, UnknownLayerError, UnsupportedLayerError
from tract_fx.frames import ModelFrame, current_frame
from tract_fx.inputs import classify
from tract_fx.options import DEFAULT_LAM, TractOptions, check_lam, closest
from tract_fx.passes import first_layer
from tract_fx.passes.first_layer import Findings, Match, Rejection, RejectionKind, is_named
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.passes.tract_pass import TractPass
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection, RecordStore

__all__ = ["TractBackend", "tract", "tract_backend"]

log = logging.getLogger(__name__)

LAM_INPUT = "_tract_fx_lam"
JOINT_PASS = "joint_custom_pre_pass"


def tract_backend(
    lam: float = DEFAULT_LAM,
    *,
    layers: str | Sequence[str] = "first",
    on_unsupported: str = "error",
    inner: str = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> TractBackend:
    """A backend for ``torch.compile`` that trains the first layer with TrAct.

    The gradient ``G`` of a first layer's weight becomes ``G (X^T X / r + lam I)^-1`` (arXiv 2410.23970, section 3), where
    the ``r`` rows of ``X`` are what the layer multiplies. Nothing else changes.

    Args:
        lam: finite and positive; 0.1 by default, 0.2 for long training, 0.05 for short.
        layers: ``"first"`` for every convolution or matrix product that is fed by data alone, or a list of names of
            modules (``"patch_embed.proj"``) or parameters (``"patch_embed.proj.weight"``).
        on_unsupported: ``"error"``, ``"warn"`` or ``"ignore"``: what happens when a layer should be rewritten and cannot
            be. ``"ignore"`` also silences the warning about a model without a first layer.
        inner: ``"inductor"``, or ``"aot_eager"`` to generate no code (for tests and debugging).
        mode: as in ``torch.compile``.
        options: as in ``torch.compile``.

    Returns:
        A backend; one object may compile several models.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """
    return TractBackend(
        TractOptions(
            lam=lam, layers=layers, on_unsupported=on_unsupported, inner=inner, mode=mode, options=options or {}
        )
    )


def tract(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    **_: Any,
) -> Callable[..., Any]:
    """What ``torch.compile(model, backend="tract")`` calls.

    ``options`` may hold ``lam``, ``layers``, ``on_unsupported`` and ``inner`` beside Inductor's own; without a ``lam``
    the environment variable ``TRACT_FX_LAM`` gives it.

    Raises:
        OptionError: naming the option, its value and what is allowed.
    """
    return TractBackend(TractOptions.from_compile_arguments(mode, options))(gm, example_inputs)


class TractBackend:
    """See :func:`tract_backend`."""

    __name__ = "tract"

    def __init__(self, options: TractOptions) -> None:
        self.options = options
        self._lam = options.lam
        self._lam_tensors: dict[torch.device, torch.Tensor] = {}
        self._records: list[GraphRecord] = []

    def __repr__(self) -> str:
        return f"tract_backend(lam={self.lam}, layers={self.options.layers!r}, inner={self.options.inner!r})"

    @property
    def lam(self) -> float:
        """The regularisation; setting it takes effect at the next backward pass of every graph, without a compile."""
        return self._lam

    @lam.setter
    def lam(self, value: float) -> None:
        self._lam = check_lam(value)
        for tensor in self._lam_tensors.values():
            # Through .data: a forward pass may have saved the tensor for its backward pass, which would otherwise
            # complain that it was modified.
            tensor.data.fill_(self._lam)

    @property
    def matches(self) -> tuple[LayerMatch, ...]:
        """Layers rewritten so far, in the order in which their graphs were compiled."""
        return tuple(match for record in self._records for match in record.matches)

    @property
    def rejections(self) -> tuple[LayerRejection, ...]:
        """Layers and operations that were looked at and not rewritten, with reasons."""
        return tuple(rejection for record in self._records for rejection in record.rejections)

    def reset(self) -> None:
        """Called by ``torch._dynamo.reset``: the compiled graphs are gone, and with them what is known about them."""
        self._records.clear()
        compat.reset_cudagraphs()

    def __call__(
        self,
        gm: torch.fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Callable[..., Any]:
        """Compile one captured graph; Dynamo calls this."""
        settings = self.options.with_compile_arguments(mode, options)
        frame = current_frame()
        captured = Captured(gm, example_inputs, classify(gm, example_inputs, frame.prefix), frame.prefix, settings)
        _check_names(settings.layers, frame, captured.inputs)
        lam = self._lift_lam(captured)
        if settings.inner == "aot_eager":
            compiled, record = _compile_eagerly(captured, lam)
        else:
            compiled, record = _compile_with_inductor(captured, lam)
        self._records.append(record)
        _tell(record, settings)
        return compiled

    def _lift_lam(self, captured: Captured) -> str | float:
        """Make ``lam`` an input of the graph; its value, to be compiled in, where that cannot be done."""
        device = captured.parameter_device
        if device is None or not torch.is_grad_enabled():
            return self._lam
        if device not in self._lam_tensors:
            self._lam_tensors[device] = compat.real_scalar(self._lam, device)
        if compat.lift_as_input(captured.gm, LAM_INPUT, self._lam_tensors[device]):
            return LAM_INPUT
        log.warning("lam=%s is compiled into a graph that Dynamo did not make; to change it, compile anew", self._lam)
        return self._lam


@dataclasses.dataclass(frozen=True)
class Captured:
    """A graph that Dynamo captured, and what is known about it before AOTAutograd sees it."""

    gm: torch.fx.GraphModule
    example_inputs: Sequence[Any]
    inputs: tuple[GraphInput, ...]
    prefix: str
    settings: TractOptions

    @property
    def parameter_device(self) -> torch.device | None:
        """Device of the first trainable parameter; None when there is none."""
        pairs = zip(self.inputs, self.example_inputs, strict=True)
        return next((example.device for item, example in pairs if item.role is Role.PARAMETER), None)

    def fingerprint(self, lam: str | float) -> tuple[Any, ...]:
        """Everything on which the findings depend: sources, options, the graph, and the names of what is in it."""
        stacks = [list(node.meta.get("nn_module_stack", {}).values())[-1:] for node in self.gm.graph.nodes]
        return (
            source_hash(),
            torch.__version__,
            self.settings.layers,
            self.settings.on_unsupported,
            lam,
            self.prefix,
            tuple((item.name, item.role.value) for item in self.inputs),
            self.gm.print_readable(print_output=False),
            repr(stacks),
        )


def _compile_eagerly(captured: Captured, lam: str | float) -> tuple[Callable[..., Any], GraphRecord]:
    findings = FindingsRecorder(captured.settings)
    tract_pass = TractPass(captured.inputs, captured.settings.layers, lam, (), findings, prefix=captured.prefix)
    return compat.aot_eager(captured.gm, captured.example_inputs, tract_pass), findings.record


def _compile_with_inductor(captured: Captured, lam: str | float) -> tuple[Callable[..., Any], GraphRecord]:
    patches = captured.settings.inductor_patches()
    fingerprint = captured.fingerprint(lam)
    store = RecordStore(fingerprint)
    findings = FindingsRecorder(captured.settings)
    patches[JOINT_PASS] = TractPass(
        captured.inputs,
        captured.settings.layers,
        lam,
        identity=("tract_fx", store.token),
        on_findings=findings,
        decompositions=compat.inductor_decompositions,
        before=_as_sequence(patches.get(JOINT_PASS, compat.current_joint_pass())),
        prefix=captured.prefix,
    )
    compiled = compat.compile_fx(captured.gm, captured.example_inputs, patches)
    if findings.called:
        store.save(findings.record)
        return compiled, findings.record
    return compiled, store.record or GraphRecord()


class FindingsRecorder:
    """Turns the findings of the pass into a record; raises where a layer cannot be rewritten and the user wants to know."""

    def __init__(self, settings: TractOptions) -> None:
        self.settings = settings
        self.called = False
        self.record = GraphRecord()

    def __call__(self, findings: Findings) -> None:
        self.called = True
        self.record = GraphRecord(
            tuple(map(_describe_match, findings.matches)), tuple(map(_describe_rejection, findings.rejections))
        )
        unsupported = [item for item in self.record.rejections if item.kind == RejectionKind.UNSUPPORTED.value]
        if unsupported and self.settings.on_unsupported == "error":
            raise UnsupportedLayerError("\n".join(f"TrAct cannot be applied to {item}" for item in unsupported))


def _describe_match(match: Match) -> LayerMatch:
    return LayerMatch(
        weight=", ".join(match.weights),
        layer=match.layer,
        op=match.call.operator,
        rows=match.rows if isinstance(match.rows, int) else str(match.rows),
        features=int(match.features),
        groups=int(match.groups),
        form=match.form.value,
    )


def _describe_rejection(rejection: Rejection) -> LayerRejection:
    return LayerRejection(
        weight=", ".join(rejection.weights),
        layer=rejection.layer,
        op=rejection.op,
        kind=rejection.kind.value,
        reason=rejection.reason,
        advice=rejection.advice,
    )


def _tell(record: GraphRecord, settings: TractOptions) -> None:
    """Log and warn from the record, so that a cache hit says the same as the compile that filled the cache."""
    for match in record.matches:
        log.info("%s", match)
    for rejection in record.rejections:
        if rejection.kind == RejectionKind.CONSTANT_INPUT.value or settings.on_unsupported == "ignore":
            log.info("not rewritten: %s", rejection)
        else:
            warnings.warn(f"TrAct is not applied: {rejection}", TractWarning, stacklevel=2)


def _check_names(layers: str | tuple[str, ...], frame: ModelFrame, inputs: Sequence[GraphInput]) -> None:
    if layers == "first" or not frame.names:
        return
    names = frame.names | {item.name for item in inputs}
    for name in layers:
        if not any(is_named(name, known, ()) for known in names):
            raise UnknownLayerError(
                f"layers has {name!r}, but the compiled model has no module and no parameter of that name"
                f"{closest(name, names)}"
            )


def _as_sequence(passes: Any) -> tuple[Any, ...]:
    if passes is None:
        return ()
    return tuple(passes) if isinstance(passes, (list, tuple)) else (passes,)


@functools.cache
def source_hash() -> str:
    """Hash of every source file of the package: a new version never takes a graph that an old one cached."""
    digest = hashlib.sha256()
    root, passes = Path(__file__).parent, Path(first_layer.__file__).parent
    for path in sorted({*root.rglob("*.py"), *passes.rglob("*.py")}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
