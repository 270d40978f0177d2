"""The Dynamo backend: Inductor with the TrAct pass."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tract_fx import compat, process_state
from tract_fx.compile import skipped
from tract_fx.compile.around import Around
from tract_fx.compile.captured import Captured
from tract_fx.compile.choices import saw_choice
from tract_fx.compile.compilers import Compiled, CompileGraph, compile_graph
from tract_fx.compile.conditions import beside_signals
from tract_fx.compile.inputs import classify, guard_names
from tract_fx.compile.lam_input import LamValue
from tract_fx.compile.model_frame import ModelFrame, current_frame, enclosing_model
from tract_fx.compile.origins import outputs_of, recording_outputs
from tract_fx.compile.raised_lam import watching_lam
from tract_fx.compile.reporting import check_names, report_findings
from tract_fx.compile.second_uses import watch, watching
from tract_fx.distributed import agreement
from tract_fx.distributed.groups import sharing_groups, warn_about_own_covariance
from tract_fx.errors import TractError
from tract_fx.options import DEFAULT_LAM, TractOptions
from tract_fx.passes.joint_graph import Role
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection, RejectionKind, Severity

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["TractBackend", "named_backend", "tract", "tract_backend"]


def tract_backend(
    lam: float = DEFAULT_LAM,
    *,
    layers: str | Sequence[str] = "first",
    on_unsupported: str = "error",
    inner: str = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    process_group: ProcessGroup | str | None = None,
    relative: bool = False,
) -> TractBackend:
    """Create a backend for ``torch.compile`` that trains the first layer with TrAct.

    The gradient ``G``, of shape ``(m, n)``, of a first layer's weight becomes ``G (X^T X / r + lam I)^-1`` (arXiv
    2410.23970, section 3). ``X``, of shape ``(r, n)``, holds the rows that the layer multiplies: the flattened input of a
    linear layer, or the patches of a convolution. The system is solved in float64 and the result has the dtype of the
    weight's gradient. Nothing else changes.

    Args:
        lam: the regularisation, a finite positive number in units of squared inputs, unless it is relative. The paper uses
            0.1 by default, 0.2 for long training and 0.05 for short training.
        layers: ``"first"`` for every convolution or matrix product whose input depends on data alone, or a list of names
            of modules (``"patch_embed.proj"``) or parameters (``"patch_embed.proj.weight"``). A name that no graph has used
            raises ``UnsupportedLayerError`` before the optimiser steps with the plain gradient of that layer.
        on_unsupported: ``"error"``, ``"warn"`` or ``"ignore"``: what happens when a layer should be rewritten and cannot
            be. ``"ignore"`` also silences the warning about a model without a first layer.
        inner: ``"inductor"``, or ``"aot_eager"`` to generate no code (for tests and debugging).
        mode: as in ``torch.compile``.
        options: as in ``torch.compile``.
        process_group: the ``torch.distributed.ProcessGroup`` over which gradients are averaged, or ``"ddp"`` for the group
            of the ``DistributedDataParallel`` or FSDP2 module that is running. The covariance is then computed from the
            rows of all processes, summed by one small all-reduce in the backward pass. Without a group, it is computed
            from the rows of this process.
        relative: if True, ``lam I`` becomes ``lam tr(C) / n I``, where ``C = X^T X / r`` is the covariance of the batch, or
            of all processes where they share it, for each group of channels: ``lam`` is then a share of the mean eigenvalue
            of ``C``, and training by SGD does not depend on the unit of the inputs.

    Returns:
        A backend; one object may compile several models.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """
    return TractBackend(
        TractOptions(
            lam=lam,
            layers=layers,
            on_unsupported=on_unsupported,
            inner=inner,
            mode=mode,
            options=options or {},
            process_group=process_group,
            relative=relative,
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
    """Compile one graph for ``torch.compile(model, backend="tract")``.

    ``options`` may hold ``lam``, ``layers``, ``on_unsupported``, ``inner``, ``process_group`` and ``relative`` in addition
    to Inductor's own options. Each of these that it does not hold is read from its environment variable: ``TRACT_FX_LAM``,
    ``TRACT_FX_PROCESS_GROUP`` and so on.

    Args:
        gm: the graph that Dynamo captured.
        example_inputs: parameters, fake tensors and symbolic sizes, one for each input of the graph.
        mode: as given to ``torch.compile``.
        options: as given to ``torch.compile``.

    Returns:
        The compiled function, which runs instead of the graph.

    Raises:
        OptionError: naming the option, its value and what is allowed.
        UnknownLayerError: for a name in ``layers`` that the model does not have.
        UnsupportedLayerError: when a layer cannot be rewritten and ``on_unsupported`` is ``"error"``.
        DisagreementError: when the processes of ``process_group`` cannot be reached.
    """
    backend = named_backend(mode, options)
    call = backend(gm, example_inputs)

    def run(*args: Any) -> Any:
        return call(*args)

    run.backend = backend  # type: ignore[attr-defined] # it lives as long as the graph
    return run


def named_backend(mode: str | None = None, options: Mapping[str, Any] | None = None) -> TractBackend:
    """The object behind ``torch.compile(model, backend="tract", mode=mode, options=options)``.

    It is the same one for equal options, as long as a model that was compiled with them or another reference exists.

    Raises:
        OptionError: naming the option, its value and what is allowed.
    """
    settings = TractOptions.from_compile_arguments(mode, options)
    for backend in list(process_state.named):
        if backend.options == settings:
            return backend
    backend = TractBackend(settings, warned=process_state.warned)
    process_state.named.add(backend)
    return backend


def _reset_named() -> None:
    for backend in list(process_state.named):
        backend.reset()


def expect_compiled_model(owner: object = tract, *, suppress_warnings: bool = False) -> None:
    """Register the model that is being given to ``torch.compile``, so that the user is warned if Dynamo skips it.

    Args:
        owner: the backend, held weakly; models of one owner share compiled code.
        suppress_warnings: whether the user asked for no warnings.
    """
    model = compat.model_given_to_compile()
    if model is not None:
        skipped.expect(model, owner, suppress_warnings=suppress_warnings)


tract.reset = _reset_named  # type: ignore[attr-defined] # torch._dynamo.reset calls it
tract._dynamo_backend_init = expect_compiled_model  # type: ignore[attr-defined] # torch 2.15 calls it whenever torch.compile looks the name up


def _announce_refusal(captured: Captured, reason: str) -> None:
    """Inform the processes that would share a covariance with this one that they need not wait for it."""
    names = [item.name for item in captured.inputs]
    if captured.groups and torch.is_grad_enabled() and any(item.role is Role.PARAMETER for item in captured.inputs):
        agreement.refuse(captured.groups, names, reason)


class TractBackend:
    """A backend for ``torch.compile``; :func:`tract_backend` creates one from keyword arguments.

    Dynamo calls the object once for each graph that it captures; :attr:`matches` and :attr:`rejections` then list what was
    found in all graphs. One object may compile several models, which then share its :attr:`lam`.

    Args:
        options: how layers are chosen and graphs are compiled.
        compile_graph: compiles one captured graph; by default with the compiler that ``options.inner`` names.
        trains: whether the compiled graphs are used for training. If not (``explain`` and ``probe``), no covariance is
            shared with other processes, nothing is logged or warned about, and no optimiser step is expected.
        warned: keys of the warnings that are not to be repeated; by default a set of this object's own.

    Attributes:
        options: as given; ``options.lam`` is the initial value, and :attr:`lam` the current one.
    """

    def __init__(
        self,
        options: TractOptions,
        compile_graph: CompileGraph = compile_graph,
        *,
        trains: bool = True,
        warned: set[str] | None = None,
    ) -> None:
        self.options = options
        self._compile_graph = compile_graph
        self._trains = trains
        self._warned: set[str] = set() if warned is None else warned
        self._lam = LamValue(options.lam)
        self._records: list[GraphRecord] = []

    @property
    def __name__(self) -> str:
        """``"tract"``; ``torch.compile`` reads it, which is the moment when the model can be registered.

        The reason is in :mod:`tract_fx.process_state`.
        """
        if self._trains:
            expect_compiled_model(self, suppress_warnings=self.options.on_unsupported == "ignore")
        return "tract"

    def __repr__(self) -> str:
        relative = ", relative=True" if self.options.relative else ""
        return f"tract_backend(lam={self.lam}{relative}, layers={self.options.layers!r}, inner={self.options.inner!r})"

    @property
    def lam(self) -> float:
        """The regularisation ``lam`` of ``G (X^T X / r + lam I)^-1`` (section 3 of the paper), in units of squared inputs.

        With ``relative=True`` it is in units of the mean eigenvalue ``tr(C) / n`` of the covariance.

        A new value takes effect at the next backward pass of every graph that this object compiled, without a recompile.
        The graphs read it as a float64 scalar. A graph that Dynamo did not capture keeps the value with which it was
        compiled; a log message says so when that graph is compiled.

        Processes that share a covariance must set ``lam`` in the same step. On the CPU every backward pass checks this and
        raises :class:`~tract_fx.errors.DisagreementError`. On a GPU, where the check would wait for the device, only the
        first backward pass of a layer does.

        Raises:
            OptionError: when it is set to anything but a finite positive number; the old value then stays.
        """
        return self._lam.value

    @lam.setter
    def lam(self, value: float) -> None:
        self._lam.value = value

    @property
    def matches(self) -> tuple[LayerMatch, ...]:
        """The layers that were rewritten, in the order in which their graphs were compiled.

        A layer that several graphs rewrite with the same sizes is listed for the first of them only. Graphs that were
        loaded from Inductor's cache count like those that were compiled in this process.
        """
        found: list[LayerMatch] = []
        for record in self._records:
            found.extend([match for match in record.matches if match not in found])
        return tuple(found)

    @property
    def rejections(self) -> tuple[LayerRejection, ...]:
        """The layers and operations that were considered and not rewritten, each with the reason."""
        return tuple(rejection for record in self._records for rejection in record.rejections)

    def reset(self) -> None:
        """Forget the findings of all graphs; ``torch._dynamo.reset`` calls this when it discards the graphs themselves."""
        self._records.clear()
        process_state.training.pop(self, None)
        process_state.chosen.pop(self, None)
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
        """Compile one captured graph; Dynamo calls this.

        Args:
            gm: the graph.
            example_inputs: parameters, fake tensors and symbolic sizes, one for each input of the graph.
            mode: as given to ``torch.compile`` together with this object.
            options: as given to ``torch.compile`` together with this object.

        Returns:
            The compiled function, which runs instead of the graph.

        Raises:
            OptionError: when ``mode`` or ``options`` contradict those of this object, or no process group is found.
            UnknownLayerError: for a name in ``layers`` that the model does not have.
            UnsupportedLayerError: when a layer cannot be rewritten and ``on_unsupported`` is ``"error"``.
            DisagreementError: when the processes of ``process_group`` cannot be reached.
        """
        settings = self.options.with_compile_arguments(mode, options)
        frame = current_frame(gm)
        settings = dataclasses.replace(settings, layers=frame.with_aliases(settings.layers))
        inputs = frame.named(classify(gm, example_inputs, frame.naming, frame.caller), example_inputs)
        inputs = beside_signals(gm, inputs, frame)
        guard_names(gm, settings.layers, frame.whole)
        groups = sharing_groups(settings.process_group) if self._trains else ()
        captured = Captured(gm, example_inputs, inputs, frame.naming, settings, groups)
        outputs = outputs_of(gm, inputs)  # before the compiler changes the graph
        around = Around.of(gm, inputs, frame.model) if self._chooses_first else None
        try:
            check_names(settings.layers, frame, captured.inputs)
            compiled = self._compile_graph(captured, self._lam.enter(gm, captured.parameter_device))
        except TractError as error:
            _announce_refusal(captured, str(error))
            raise
        if not compiled.record.matches:
            _announce_refusal(
                captured, "; ".join(map(str, compiled.record.rejections)) or "no layer of its graph is a first layer"
            )
        self._records.append(compiled.record)
        if self._trains:
            graph = _training_graph(captured, frame, compiled)
            if around is not None:
                around.warn(graph, compiled.record, self._warned)
            self._report(captured, graph, frame, compiled)
            call = watching(compiled.call) if torch.is_grad_enabled() else compiled.call
            if settings.on_unsupported != "ignore":
                call = watching_lam(call, compiled.record, self._lam, self._warned)
            return recording_outputs(call, outputs, frame.caller)
        return compiled.call

    @property
    def _chooses_first(self) -> bool:
        """Whether training graphs are compiled now, their first layers are found and not named, and warnings are wanted."""
        wanted = self.options.layers == "first" and self.options.on_unsupported != "ignore"
        return wanted and self._trains and torch.is_grad_enabled()

    def _report(self, captured: Captured, graph: skipped.TrainingGraph, frame: ModelFrame, compiled: Compiled) -> None:
        """Log the findings, warn, and record which parameters are inputs of a compiled graph."""
        settings, matched = captured.settings, bool(compiled.record.matches)
        suppress_warnings = settings.on_unsupported == "ignore"
        report_findings(compiled.record, settings, self._warned, traced=compiled.traced)
        if matched and settings.process_group is None and not suppress_warnings and not captured.has_rows_of_all:
            warn_about_own_covariance("tract_backend(...) or to the options of torch.compile", self._warned)
        if torch.is_grad_enabled():
            owner = tract if self._warned is process_state.warned else self
            compiled_here = process_state.training.setdefault(self, weakref.WeakValueDictionary())
            compiled_here.update({id(parameter): parameter for parameter in graph.parameters})
            skipped.saw_graph(graph, owner, suppress_warnings=suppress_warnings)
            if not suppress_warnings:
                watch(graph.rewritten)
            layers = self.options.layers
            saw_choice(self, layers, settings.on_unsupported, frame, compiled.record)
        else:
            skipped.saw_graph_without_gradients(frame.model)


def _training_graph(captured: Captured, frame: ModelFrame, compiled: Compiled) -> skipped.TrainingGraph:
    record = compiled.record
    rewritten = {name for match in record.matches for name in match.weight.split(", ")}
    pairs = list(zip(captured.inputs, captured.example_inputs, strict=True))
    held = {item.name: example for item, example in pairs if isinstance(example, torch.nn.Parameter)}
    trained = frozenset(item.name for item in captured.inputs if item.role is Role.PARAMETER)
    return skipped.TrainingGraph(
        model=frame.model,
        names=frozenset(map(frame.in_part, trained)),
        parameters=tuple(example for name, example in held.items() if name in trained),
        held=held,
        rewritten={name: example for name, example in held.items() if name in rewritten},
        matched=bool(record.matches),
        frozen=bool(held) and not trained,
        warned=any(item.severity is not Severity.NOTE for item in record.rejections) or compat.is_in_later_stage(),
        reasons=tuple(str(item) for item in record.rejections if item.kind == RejectionKind.CONSTANT_INPUT.value),
        enclosing=enclosing_model(frame.model),
    )
