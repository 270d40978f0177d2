"""The Dynamo backend: Inductor with the TrAct pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tract_fx import compat, process_state
from tract_fx.compile import skipped
from tract_fx.compile.captured import Captured
from tract_fx.compile.compilers import Compiled, CompileGraph, compile_graph
from tract_fx.compile.inputs import classify
from tract_fx.compile.lam_input import LamValue
from tract_fx.compile.model_frame import ModelFrame, current_frame
from tract_fx.compile.reporting import check_names, report_findings
from tract_fx.distributed import agreement
from tract_fx.distributed.groups import sharing_groups, warn_about_own_covariance
from tract_fx.errors import TractError
from tract_fx.options import DEFAULT_LAM, TractOptions
from tract_fx.passes.joint_graph import Role
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["TractBackend", "tract", "tract_backend"]


def tract_backend(
    lam: float = DEFAULT_LAM,
    *,
    layers: str | Sequence[str] = "first",
    on_unsupported: str = "error",
    inner: str = "inductor",
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    process_group: ProcessGroup | str | None = None,
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
        process_group: the ``torch.distributed.ProcessGroup`` over which gradients are averaged, or ``"ddp"`` for that of
            the ``DistributedDataParallel`` or FSDP2 module that is being run. The covariance is then that of the rows of
            all processes, summed by one small all-reduce in the backward pass. Without it, it is that of this process.

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

    ``options`` may hold ``lam``, ``layers``, ``on_unsupported``, ``inner`` and ``process_group`` beside Inductor's own;
    what it does not hold comes from the environment variables ``TRACT_FX_LAM``, ``TRACT_FX_PROCESS_GROUP`` and so on.

    Raises:
        OptionError: naming the option, its value and what is allowed.
    """
    return TractBackend(TractOptions.from_compile_arguments(mode, options), warned=process_state.warned)(
        gm, example_inputs
    )


def expect_compiled_model(owner: object = tract, *, suppress_warnings: bool = False) -> None:
    """To be called inside of ``torch.compile``: should Dynamo skip the model, the user is warned."""
    model = compat.model_given_to_compile()
    if model is not None:
        skipped.expect(model, owner, suppress_warnings=suppress_warnings)


tract._dynamo_backend_init = expect_compiled_model  # type: ignore[attr-defined] # torch 2.15 calls it whenever torch.compile looks the name up


def _announce_refusal(captured: Captured, reason: str) -> None:
    """Say to processes that would share a covariance with this one that they need not wait for it."""
    names = [item.name for item in captured.inputs]
    if captured.groups and torch.is_grad_enabled() and any(item.role is Role.PARAMETER for item in captured.inputs):
        agreement.refuse(captured.groups, names, reason)


class TractBackend:
    """A backend for ``torch.compile``; :func:`tract_backend` makes one from keyword arguments.

    Dynamo calls it once for each graph that it captures. One object may compile several models; its ``lam`` is that of all
    of them.

    Args:
        options: how layers are chosen and graphs are compiled.
        compile_graph: what compiles a captured graph, by default as ``options.inner`` says.
        trains: whether the graphs are going to train. Where they are not (``explain`` and ``probe``), other processes have
            no part in them, nothing is reported, and no optimiser is expected.
        warned: keys of what has been said and is not said again; by default what this object has said.
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
        """``"tract"``; ``torch.compile`` asks for it, and that is when the model it compiles can be seen."""
        if self._trains:
            expect_compiled_model(self, suppress_warnings=self.options.on_unsupported == "ignore")
        return "tract"

    def __repr__(self) -> str:
        return f"tract_backend(lam={self.lam}, layers={self.options.layers!r}, inner={self.options.inner!r})"

    @property
    def lam(self) -> float:
        """The regularisation ``lam`` of ``G (X^T X / r + lam I)^-1`` (section 3 of the paper).

        It has the unit of squared inputs. Setting it takes effect at the next backward pass of every graph, without a
        recompile. Processes that share a covariance have to set it in the same step: on the CPU every backward pass checks
        that; on a GPU, which would have to be waited for, only the first one of a layer does.

        Raises:
            OptionError: when it is set to anything but a finite positive number.
        """
        return self._lam.value

    @lam.setter
    def lam(self, value: float) -> None:
        self._lam.value = value

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
        """Compile one captured graph; Dynamo calls this.

        Args:
            gm: the graph.
            example_inputs: parameters, fake tensors and symbolic sizes, one for each input of the graph.
            mode: as given to ``torch.compile`` beside this object.
            options: as given to ``torch.compile`` beside this object.

        Returns:
            What runs in the place of the graph.

        Raises:
            OptionError: when ``mode`` or ``options`` contradict those of this object.
            UnknownLayerError: for a name in ``layers`` that the model does not have.
            UnsupportedLayerError: when a layer cannot be rewritten and ``on_unsupported`` is ``"error"``.
        """
        settings = self.options.with_compile_arguments(mode, options)
        frame = current_frame(gm)
        inputs = classify(gm, example_inputs, frame.naming)
        groups = sharing_groups(settings.process_group) if self._trains else ()
        captured = Captured(gm, example_inputs, inputs, frame.naming, settings, groups)
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
            self._report(captured, frame, compiled)
        return compiled.call

    def _report(self, captured: Captured, frame: ModelFrame, compiled: Compiled) -> None:
        """Log and warn, and remember which parameters are in a compiled graph."""
        settings, matched = captured.settings, bool(compiled.record.matches)
        suppress_warnings = settings.on_unsupported == "ignore"
        report_findings(compiled.record, settings, traced=compiled.traced)
        if matched and settings.process_group is None and not suppress_warnings and not captured.has_rows_of_all:
            warn_about_own_covariance("tract_backend(...) or to the options of torch.compile", self._warned)
        if torch.is_grad_enabled():
            skipped.saw_graph(
                frame.model,
                tract if self._warned is process_state.warned else self,
                (item.name for item in captured.inputs if item.role is Role.PARAMETER),
                matched=matched,
                suppress_warnings=suppress_warnings,
            )
