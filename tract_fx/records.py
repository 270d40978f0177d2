"""What the backend reports about a compiled graph: layers rewritten, and layers left alone with the reasons."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

__all__ = ["GraphRecord", "LayerMatch", "LayerRejection", "RejectionKind", "Severity"]


class Severity(enum.Enum):
    """How much a rejection matters for training."""

    ERROR = "error"
    """A layer should be rewritten and cannot be. It raises, unless the user asked for a warning or for neither."""
    WARNING = "warning"
    """Training continues without TrAct."""
    NOTE = "note"
    """There is nothing to rewrite, and nothing to warn about."""


class RejectionKind(enum.Enum):
    """Why a call is not a match."""

    UNSUPPORTED = "unsupported"
    """The call should be rewritten and cannot be."""
    NO_FIRST_LAYER = "no first layer"
    """The graph has data, but the first operation that combines them with a parameter is not a layer."""
    CONSTANT_INPUT = "constant input"
    """The call is not a first layer, because its input does not depend on data."""
    NO_GRADIENT = "no gradient"
    """The gradient of its weight is not computed (a detached weight, an output that no loss depends on)."""

    @property
    def severity(self) -> Severity:
        """How much it matters; this is the only place where that is decided."""
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
        weight: qualified name of the parameter, as in the ``state_dict``; several names, joined by commas, when the weight
            is computed from several parameters.
        layer: qualified name of the module that holds it; empty for the root module and for plain functions.
        op: operator in the graph, such as ``convolution`` or ``addmm``.
        rows: ``r``, the number of rows of ``X`` for one group; a string with an expression in symbolic sizes when the
            graph is dynamic.
        features: ``n``, the number of columns of ``X`` for one group.
        groups: number of independent systems that are solved, such as the groups of a convolution.
        form: ``"primal"`` (systems of size ``n x n``) or ``"dual"`` (``r x r``), see :mod:`tract_fx.ops.solve`.
        blocks: sizes of the systems of one group where the covariance of a transposed convolution consists of blocks; empty
            where there is one system of the size above.
        relative: whether ``lam`` is in units of ``tr(C) / n``, the mean eigenvalue of the covariance.
    """

    weight: str
    layer: str
    op: str
    rows: int | str
    features: int
    groups: int
    form: str
    relative: bool = False
    blocks: tuple[int | str, ...] = ()

    @property
    def name(self) -> str:
        """The layer; where it has no name, the weight."""
        return self.layer or self.weight

    @property
    def count(self) -> int:
        """Number of systems that are solved."""
        return self.groups * max(1, len(self.blocks))

    @property
    def size(self) -> int | str:
        """Size of the systems; of several the largest, and of symbolic ones the first."""
        if not self.blocks:
            return self.features if self.form == "primal" else self.rows
        numbers = [size for size in self.blocks if isinstance(size, int)]
        return max(numbers) if len(numbers) == len(self.blocks) else self.blocks[0]

    @property
    def is_largest(self) -> bool:
        """Whether :attr:`size` is that of some of several systems only."""
        return len(set(self.blocks)) > 1

    def __str__(self) -> str:
        most = "up to " if self.is_largest else ""
        return (
            f"{self.weight or self.layer}: {self.op} rewritten, {self.form}, {self.count} x ({most}{self.size} x "
            f"{self.size}), {self.rows} rows, {self.features} features{', relative lam' if self.relative else ''}"
        )


@dataclasses.dataclass(frozen=True)
class LayerRejection:
    """One layer, or operation, that has not been rewritten, and the reason.

    Attributes:
        weight: as in :class:`LayerMatch`.
        layer: as in :class:`LayerMatch`.
        op: operator in the graph; empty when no operator uses the parameter.
        kind: value of a :class:`RejectionKind`: ``"unsupported"``, ``"no first layer"``, ``"constant input"`` or
            ``"no gradient"``.
        reason: why it has not been rewritten, without a final full stop.
        advice: what the user can do about it, in full sentences; empty when there is nothing to do.
    """

    weight: str
    layer: str
    op: str
    kind: str
    reason: str
    advice: str

    @property
    def severity(self) -> Severity:
        """How much it matters for training."""
        return RejectionKind(self.kind).severity

    @property
    def name(self) -> str:
        """The layer; where it has no name, the weight; without one, the operator."""
        return self.layer or self.weight or self.op

    def __str__(self) -> str:
        operator = f" ({self.op})" if self.op and self.op != self.name else ""
        return f"{self.name}{operator}: {self.reason}. {self.advice}".rstrip()


@dataclasses.dataclass(frozen=True)
class GraphRecord:
    """The findings of one compiled graph.

    Attributes:
        matches: the layers that were rewritten, in the order of the graph.
        rejections: the layers and operations that were considered and not rewritten.
        has_gradients: whether the graph computes gradients.
        sources: for each match the position of the graph's input that the layer is fed with as it is, up to views and casts;
            None where it is fed with something else.
    """

    matches: tuple[LayerMatch, ...] = ()
    rejections: tuple[LayerRejection, ...] = ()
    has_gradients: bool = False
    sources: tuple[int | None, ...] = ()

    def __str__(self) -> str:
        """One line that lists every layer that was rewritten, and every one that was not."""
        parts = [*map(str, self.matches), *(f"not rewritten: {rejection}" for rejection in self.rejections)]
        if parts:
            return "; ".join(parts)
        why = (
            "no layer of this graph has an input that depends on data alone"
            if self.has_gradients
            else "this graph computes no gradients"
        )
        return f"nothing to rewrite: {why}"

    def to_json(self) -> dict[str, Any]:
        """The record as dictionaries, sequences, strings and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphRecord:
        """Inverse of :meth:`to_json`."""
        return cls(
            tuple(LayerMatch(**match | {"blocks": tuple(match["blocks"])}) for match in data["matches"]),
            tuple(LayerRejection(**rejection) for rejection in data["rejections"]),
            data["has_gradients"],
            tuple(data["sources"]),
        )
