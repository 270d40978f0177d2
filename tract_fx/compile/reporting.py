"""From the findings of the pass to records, errors, warnings and log messages for the user."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from tract_fx import compat
from tract_fx.compile.logs import log_findings
from tract_fx.compile.model_frame import ModelFrame
from tract_fx.compile.remedies import advice
from tract_fx.errors import TractWarning, UnknownLayerError, UnsupportedLayerError
from tract_fx.ops.transposed import TransposedGeometry
from tract_fx.options import TractOptions, closest
from tract_fx.passes.first_layer import Findings, Form, Match, Rejection, is_named, same_values
from tract_fx.passes.joint_graph import GraphInput, Role
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection, Severity

__all__ = ["FindingsRecorder", "check_names", "report_findings", "warn_about_inputs"]


class FindingsRecorder:
    """Turns the findings of the pass into a record, and raises where the user asked for an error.

    Args:
        settings: ``on_unsupported`` decides whether a layer that cannot be rewritten raises.

    Attributes:
        called: whether the pass ran; on a cache hit it does not.
        record: the findings of the graph.
    """

    def __init__(self, settings: TractOptions) -> None:
        self.settings = settings
        self.called = False
        self.record = GraphRecord()

    def __call__(self, findings: Findings) -> None:
        """Take the findings of one graph, before it is changed.

        Raises:
            UnsupportedLayerError: naming every layer that cannot be rewritten, if ``on_unsupported`` is ``"error"``.
        """
        self.called = True
        self.record = GraphRecord(
            tuple(_describe_match(match, self.settings.relative) for match in findings.matches),
            tuple(map(_describe_rejection, findings.rejections)),
            findings.has_gradients,
            tuple(map(_source, findings.matches)),
        )
        unsupported = [item for item in self.record.rejections if item.severity is Severity.ERROR]
        if unsupported and self.settings.on_unsupported == "error":
            log_findings(self.record, traced=True)
            raise UnsupportedLayerError("\n".join(f"TrAct cannot be applied to {item}" for item in unsupported))


def _describe_match(match: Match, relative: bool) -> LayerMatch:
    return LayerMatch(
        weight=", ".join(match.weights),
        layer=match.layer,
        op=match.call.operator,
        rows=match.rows if isinstance(match.rows, int) else str(match.rows),
        features=int(match.features),
        groups=int(match.groups),
        form=match.form.value,
        blocks=_blocks(match),
        relative=relative,
    )


def _source(match: Match) -> int | None:
    *_, node = same_values(match.call.input)
    desc = node.meta.get("desc")
    return desc.idx if isinstance(desc, compat.PlainAOTInput) else None


def _blocks(match: Match) -> tuple[int | str, ...]:
    if not isinstance(match.call.geometry, TransposedGeometry):
        return ()
    sizes = [system.features if match.form is Form.PRIMAL else system.rows for system in match.systems]
    return tuple(size if isinstance(size, int) else str(size) for size in sizes)


def _describe_rejection(rejection: Rejection) -> LayerRejection:
    return LayerRejection(
        weight=", ".join(rejection.weights),
        layer=rejection.layer,
        op=rejection.op,
        kind=rejection.kind.value,
        reason=rejection.reason,
        advice=advice(rejection.remedy, rejection.next_layer),
    )


def report_findings(record: GraphRecord, settings: TractOptions, reported: set[str], *, traced: bool) -> None:
    """Log and warn from the record, so that a cache hit reports the same as the compile that filled the cache.

    Args:
        record: the findings of a graph.
        settings: ``on_unsupported`` decides whether there are warnings.
        reported: messages that are given once; what is logged of a graph with nothing to rewrite is added.
        traced: whether the pass ran; False on a cache hit.
    """
    idle = not (record.matches or record.rejections)
    log_findings(record, traced=traced, repeated=idle and str(record) in reported)
    if idle:
        reported.add(str(record))
    if settings.on_unsupported == "ignore":
        return
    for rejection in record.rejections:
        if rejection.severity is not Severity.NOTE:
            warnings.warn(f"TrAct is not applied: {rejection}", TractWarning, stacklevel=2)


def warn_about_inputs(
    record: GraphRecord, fed_between: frozenset[str], earlier: frozenset[str], reported: set[str]
) -> None:
    """Warn about layers that were rewritten in a later graph and whose input was made by code between two graphs.

    Args:
        record: the findings of the later graph.
        fed_between: names of the parameters that such inputs feed.
        earlier: names of the parameters that other graphs of the same model rewrite.
        reported: keys of the warnings that are given once.
    """
    names = {match: frozenset(match.weight.split(", ")) for match in record.matches}
    others = earlier.difference(*names.values())
    for match, weights in names.items():
        key = f"made between two graphs: {match.weight}"
        if others and weights & fed_between and key not in reported:
            reported.add(key)
            warnings.warn(
                f"TrAct is applied to {match.name}, although code between two graphs made its input, and "
                f"{', '.join(sorted(others))} is the start of this network, too. If that input is data, nothing is wrong. "
                "If it was made of values that a network computed (codes, samples), leave the layer out: name the first "
                'layers with layers=[...]. on_unsupported="ignore" silences this.',
                TractWarning,
                stacklevel=4,
            )


def check_names(layers: str | Sequence[str], frame: ModelFrame, inputs: Sequence[GraphInput]) -> None:
    """Check that the model has the names in ``layers``; where no model is known, warn about those the graph does not have.

    A function without parameters has no layers, and nothing is said of it.

    Args:
        layers: the option.
        frame: the model that is being compiled, if it is known.
        inputs: the inputs of the captured graph.

    Raises:
        UnknownLayerError: naming a name that the model does not have, and names that are similar.
    """
    if layers == "first" or (frame.names is None and all(item.role is not Role.PARAMETER for item in inputs)):
        return
    used = {item.name for item in inputs}
    known = (frame.names or frozenset()) | used | {name.rpartition(".")[0] for name in used}
    for name in layers:
        if any(is_named(name, item, ()) for item in known):
            continue
        problem = f"layers has {name!r}, but the compiled {{}} has no module and no parameter of that name"
        if frame.names is not None:
            raise UnknownLayerError(problem.format("model") + closest(name, known))
        warnings.warn(problem.format("graph") + closest(name, known), TractWarning, stacklevel=2)
