"""The two ways to compile a captured graph with the pass: Inductor, or no code generation at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tract_fx import compat
from tract_fx.compile.cache import RecordStore, fingerprint
from tract_fx.compile.captured import Captured
from tract_fx.compile.lam_input import LamInput
from tract_fx.compile.logs import showing
from tract_fx.compile.reporting import FindingsRecorder
from tract_fx.records import GraphRecord

__all__ = ["CompileGraph", "Compiled", "compile_graph"]

JOINT_PASS = "joint_custom_pre_pass"


class Compiled(NamedTuple):
    """A compiled graph.

    Attributes:
        call: runs it.
        record: its findings.
        traced: whether the pass ran; on a cache hit it does not.
    """

    call: Callable[..., Any]
    record: GraphRecord
    traced: bool


CompileGraph = Callable[[Captured, LamInput], Compiled]
"""How a backend compiles one graph that Dynamo has captured."""


def compile_graph(captured: Captured, lam: LamInput) -> Compiled:
    """Compile a captured graph with the compiler that the option ``inner`` names.

    Raises:
        UnsupportedLayerError: when a layer cannot be rewritten and ``on_unsupported`` is ``"error"``.
    """
    return _COMPILERS[captured.settings.inner](captured, lam)


def _compile_eagerly(captured: Captured, lam: LamInput) -> Compiled:
    """Run the joint graph after the pass, without generating code."""
    findings = FindingsRecorder(captured.settings)
    tract_pass = captured.tract_pass(lam, findings, watch=showing)
    call = compat.aot_eager(captured.gm, captured.example_inputs, tract_pass)
    return Compiled(call, findings.record, traced=True)


def _compile_with_inductor(captured: Captured, lam: LamInput) -> Compiled:
    """Compile with Inductor and its caches; on a hit the record is read from the store."""
    patches = captured.settings.inductor_patches()
    store = RecordStore(fingerprint(captured, lam))
    findings = FindingsRecorder(captured.settings)
    patches[JOINT_PASS] = captured.tract_pass(
        lam,
        findings,
        identity=("tract_fx", store.token),
        decompositions=compat.inductor_decompositions,
        before=_as_sequence(patches.get(JOINT_PASS, compat.current_joint_pass())),
        watch=showing,
    )
    call = compat.compile_fx(captured.gm, captured.example_inputs, patches)
    if findings.called:
        store.save(findings.record)
        return Compiled(call, findings.record, traced=True)
    return Compiled(call, store.record or GraphRecord(), traced=False)


_COMPILERS: dict[str, CompileGraph] = {"inductor": _compile_with_inductor, "aot_eager": _compile_eagerly}


def _as_sequence(passes: Any) -> tuple[Any, ...]:
    if passes is None:
        return ()
    return tuple(passes) if isinstance(passes, (list, tuple)) else (passes,)
