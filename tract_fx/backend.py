"""The Dynamo backend: Inductor with the TrAct pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tract_fx import compat
from tract_fx.compile import skipped
from tract_fx.compile.captured import Captured
from tract_fx.compile.compilers import Compiled, compile_eagerly, compile_with_inductor
from tract_fx.compile.inputs import classify
from tract_fx.compile.lam_input import LamInput, LamValue
from tract_fx.compile.model_frame import ModelFrame, current_frame
from tract_fx.compile.reporting import check_names, report_findings
from tract_fx.distributed import agreement
from tract_fx.distributed.groups import process_count, sharing_groups
from tract_fx.errors import TractError, TractWarning
from tract_fx.options import DEFAULT_LAM, TractOptions
from tract_fx.passes.joint_graph import Role
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["TractBackend", "tract", "tract_backend"]

OWN_COVARIANCE = (
    "There are {count} processes, and each uses the covariance of its own part of the batch, which for few rows is not "
    'the method. If their gradients are averaged, give process_group="ddp", or the process group, to tract_backend(...) '
    "or to the options of torch.compile; the covariance is then that of the whole batch."
)
# The backend under its name is made anew for every graph; what it says only once is here.
_warned_by_name: set[str] = set()


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
    return TractBackend(TractOptions.from_compile_arguments(mode, options), _warned_by_name)(gm, example_inputs)


def expect_compiled_model(owner: object = tract, *, suppress_warnings: bool = False) -> None:
    """To be called inside of ``torch.compile``: should Dynamo skip the model, the user will hear of it."""
    model = compat.model_given_to_compile()
    if model is not None:
        skipped.expect(model, owner, suppress_warnings=suppress_warnings)


tract._dynamo_backend_init = expect_compiled_model  # torch 2.15 calls it whenever torch.compile looks the name up


def _announce_refusal(captured: Captured, reason: str) -> None:
    """Processes that would share a covariance with this one need not wait for it."""
    names = [item.name for item in captured.inputs]
    if captured.groups and torch.is_grad_enabled() and any(item.role is Role.PARAMETER for item in captured.inputs):
        agreement.refuse(captured.groups, names, reason)


class TractBackend:
    """See :func:`tract_backend`."""

    @property
    def __name__(self) -> str:
        """``"tract"``; ``torch.compile`` asks for it, and that is when the model it compiles can be seen."""
        expect_compiled_model(self, suppress_warnings=self.options.on_unsupported == "ignore")
        return "tract"

    def __init__(self, options: TractOptions, told: set[str] | None = None) -> None:
        self.options = options
        self._warned: set[str] = set() if told is None else told
        self._lam = LamValue(options.lam)
        self._records: list[GraphRecord] = []

    def __repr__(self) -> str:
        return f"tract_backend(lam={self.lam}, layers={self.options.layers!r}, inner={self.options.inner!r})"

    @property
    def lam(self) -> float:
        """The regularisation; setting it takes effect at the next backward pass of every graph, without a compile.

        Processes that share a covariance have to set it in the same step. On the CPU every backward pass checks that; on
        a GPU, which would have to be waited for, only a layer's first one does.
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
        """Compile one captured graph; Dynamo calls this."""
        settings = self.options.with_compile_arguments(mode, options)
        frame = current_frame(gm)
        captured = Captured(
            gm,
            example_inputs,
            classify(gm, example_inputs, frame.naming),
            frame.naming,
            settings,
            self._groups(settings),
        )
        try:
            check_names(settings.layers, frame, captured.inputs)
            compiled = self._compile(captured, self._lam.enter(captured.gm, captured.parameter_device))
        except TractError as error:
            _announce_refusal(captured, str(error))
            raise
        if not compiled.record.matches:
            _announce_refusal(
                captured, "; ".join(map(str, compiled.record.rejections)) or "no layer of its graph is a first layer"
            )
        self._records.append(compiled.record)
        self._report(captured, frame, compiled)
        return compiled.call

    def _groups(self, settings: TractOptions) -> tuple[agreement.Group, ...]:
        return sharing_groups(settings.process_group)

    def _compile(self, captured: Captured, lam: LamInput) -> Compiled:
        if captured.settings.inner == "aot_eager":
            return compile_eagerly(captured, lam)
        return compile_with_inductor(captured, lam)

    def _report(self, captured: Captured, frame: ModelFrame, compiled: Compiled) -> None:
        report_findings(compiled.record, captured.settings, traced=compiled.traced)
        if compiled.record.matches:
            self._tell_about_processes(captured)
        if torch.is_grad_enabled():
            skipped.saw_graph(
                frame.model,
                tract if self._warned is _warned_by_name else self,
                (item.name for item in captured.inputs if item.role is Role.PARAMETER),
                matched=bool(compiled.record.matches),
                suppress_warnings=captured.settings.on_unsupported == "ignore",
            )

    def _tell_about_processes(self, captured: Captured) -> None:
        """Once: without ``process_group`` the method is not that of one process with the whole batch."""
        settings, count = captured.settings, process_count()
        spread = [item for item in captured.example_inputs if compat.is_distributed_tensor(item)]
        # Where all processes share one model, they have the same rows.
        same_rows = any(item.device_mesh.size() == count for item in spread)
        alone = settings.process_group is not None or count == 1 or same_rows
        if alone or settings.on_unsupported == "ignore" or OWN_COVARIANCE in self._warned:
            return
        self._warned.add(OWN_COVARIANCE)
        warnings.warn(OWN_COVARIANCE.format(count=count), TractWarning, stacklevel=2)
