"""What the backend reports about a compiled graph: layers rewritten, and layers left alone with the reasons."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

__all__ = ["GraphRecord", "LayerMatch", "LayerRejection", "RejectionKind", "Severity"]


class Severity(enum.Enum):
    """How much a rejection matters to somebody who trains."""

    ERROR = "error"
    """A layer should be rewritten and cannot be: an error, unless the user chose a warning or silence."""
    WARNING = "warning"
    """Training goes on without TrAct."""
    NOTE = "note"
    """Nothing should be rewritten there."""


class RejectionKind(enum.Enum):
    """Why a call is no match."""

    UNSUPPORTED = "unsupported"
    """It should be rewritten and cannot be."""
    NO_FIRST_LAYER = "no first layer"
    """Data enters, but what it meets first is not a layer."""
    CONSTANT_INPUT = "constant input"
    """It is not a first layer, because nothing in its input is data."""
    NO_GRADIENT = "no gradient"
    """Its weight's gradient is not computed (a detached weight, an output that no loss depends on)."""

    @property
    def severity(self) -> Severity:
        """What follows from it; nothing else decides this."""
        return _SEVERITIES[self]


_SEVERITIES = {
    RejectionKind.UNSUPPORTED: Severity.ERROR,
    RejectionKind.NO_FIRST_LAYER: Severity.WARNING,
    RejectionKind.CONSTANT_INPUT: Severity.NOTE,
    RejectionKind.NO_GRADIENT: Severity.NOTE,
}


@dataclasses.dataclass(frozen=True)
class LayerMatch:
    """One layer whose weight gradient has been rewritten.

    Attributes:
        weight: qualified name of the parameter; several, joined by commas, when the weight is computed from them.
        layer: qualified name of the module that holds it; empty for the root module and for plain functions.
        op: operator in the graph, such as ``convolution`` or ``addmm``.
        rows: ``r``; an expression in symbolic sizes, as a string, when the graph is dynamic.
        features: ``n``, for one group.
        groups: number of systems that are solved.
        form: ``"primal"`` (``n x n`` systems) or ``"dual"`` (``r x r``).
    """

    weight: str
    layer: str
    op: str
    rows: int | str
    features: int
    groups: int
    form: str

    def __str__(self) -> str:
        system = self.features if self.form == "primal" else self.rows
        return (
            f"{self.weight or self.layer}: {self.op} rewritten, {self.form}, {self.groups} x ({system} x {system}), "
            f"{self.rows} rows, {self.features} features"
        )


@dataclasses.dataclass(frozen=True)
class LayerRejection:
    """One layer, or operation, that has not been rewritten, and why.

    Attributes:
        weight: as in :class:`LayerMatch`.
        layer: as in :class:`LayerMatch`.
        op: operator in the graph; empty when the parameter is not used by any.
        kind: value of a :class:`RejectionKind`: ``"unsupported"``, ``"no first layer"``, ``"constant input"`` or
            ``"no gradient"``.
        reason: why, in words.
        advice: what to do about it, if anything.
    """

    weight: str
    layer: str
    op: str
    kind: str
    reason: str
    advice: str

    @property
    def severity(self) -> Severity:
        """How much it matters to somebody who trains."""
        return RejectionKind(self.kind).severity

    def __str__(self) -> str:
        name = self.layer or self.weight or self.op
        return f"{name}{f' ({self.op})' if self.op and self.op != name else ''}: {self.reason}. {self.advice}".rstrip()


@dataclasses.dataclass(frozen=True)
class GraphRecord:
    """The findings of one compiled graph; ``has_gradients`` is whether it computes any."""

    matches: tuple[LayerMatch, ...] = ()
    rejections: tuple[LayerRejection, ...] = ()
    has_gradients: bool = False

    def __str__(self) -> str:
        """One line that names every layer of a model with several stems, and says what was not rewritten."""
        parts = [*map(str, self.matches), *(f"not rewritten: {rejection}" for rejection in self.rejections)]
        if parts:
            return "; ".join(parts)
        why = (
            "no layer of this graph is fed by data alone" if self.has_gradients else "this graph computes no gradients"
        )
        return f"nothing to rewrite: {why}"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphRecord:
        """Inverse of :meth:`to_json`."""
        return cls(
            tuple(LayerMatch(**match) for match in data["matches"]),
            tuple(LayerRejection(**rejection) for rejection in data["rejections"]),
            data["has_gradients"],
        )
