"""The data of a probe, from which the views render text and pictures."""

from __future__ import annotations

import dataclasses
import enum
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from tract_fx.inspect.formatting import describe_lam
from tract_fx.ops.patches import PatchGeometry
from tract_fx.probing.spectrum import relative_to_mean
from tract_fx.records import LayerRejection

__all__ = ["Concern", "ConcernKind", "GridPoint", "LayerProbe", "ProbeResult", "ValueSummary", "mean_of"]

# Per-channel and per-feature lists longer than this are left out of `to_dict`.
MOST_LISTED = 4096

# Cosines on another batch that are this close to the best are taken for equal.
CLOSE_TO_BEST = 0.95


class ConcernKind(enum.Enum):
    """What is unusual. The order is that of the report: causes stand before what follows from them."""

    NOT_FINITE = "not finite"
    NOT_STANDARDISED = "not standardised"
    NEAR_CONSTANT = "near-constant samples"
    LOW_CONTRAST = "low contrast"
    DEAD_CHANNEL = "dead channel"
    DIFFERENT_UNITS = "different units"
    DUPLICATED_CHANNELS = "duplicated channels"
    LAM_TOO_LARGE = "lam too large"
    LAM_TOO_SMALL = "lam too small"
    LAM_RAISED = "lam raised"
    ILL_CONDITIONED = "ill-conditioned"
    FEW_ROWS = "fewer rows than features"
    HARM = "possible harm"
    WHITE = "white"
    ZERO_GRADIENT = "zero gradient"


@dataclasses.dataclass(frozen=True)
class Concern:
    """One unusual thing about a layer's data or about ``lam``.

    Attributes:
        layer: name of the layer.
        kind: what it is.
        sentence: it, with numbers; starts with a small letter and has no full stop.
        advice: what to do.
    """

    layer: str
    kind: ConcernKind
    sentence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.sentence}. {self.advice}"


@dataclasses.dataclass(frozen=True, eq=False)
class ValueSummary:
    """The values that a layer was fed with. For a product the channels are its features.

    Attributes:
        mean, std, minimum, maximum: of each channel, ``(channels,)``.
        samples: the loader's examples.
        constant: share of them with one value in each channel.
        near_constant: share with a standard deviation below a hundredth of that of their batch.
        contrast: root mean square over the others of the standard deviation within one; None without others.
        dead: channels that do not vary beyond the rounding of float32.
        duplicates: sets of channels that are copies of each other up to scale and offset.
        zero_one: features of a product that are only 0 and 1, such as one-hot columns, and not always the same.
    """

    mean: Tensor
    std: Tensor
    minimum: Tensor
    maximum: Tensor
    samples: int
    constant: float
    near_constant: float
    contrast: float | None
    dead: tuple[int, ...]
    duplicates: tuple[tuple[int, ...], ...]
    zero_one: tuple[int, ...] = ()

    @property
    def measured(self) -> Tensor:
        """Which channels have a unit: not those that are constant, nor those of 0 and 1; ``(channels,)``."""
        kept = torch.ones(len(self.std), dtype=torch.bool)
        kept[[*self.dead, *self.zero_one]] = False
        return kept

    def of(self, channels: Tensor) -> ValueSummary:
        """Means and ranges of some channels only, ``(channels,)`` of bool."""
        fields = ("mean", "std", "minimum", "maximum")
        return dataclasses.replace(self, **{field: getattr(self, field)[channels] for field in fields})

    @property
    def overall_std(self) -> float:
        """Root mean square over channels of their standard deviations."""
        return self.std.square().mean().sqrt().item()

    @property
    def mean_share(self) -> float:
        """Share of the second moment of the values that their channels' means make up."""
        square = (self.mean.square() + self.std.square()).mean().item()
        return self.mean.square().mean().item() / square if square > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class GridPoint:
    """What TrAct does to the gradient at one ``lam``, averaged over the backward passes.

    Attributes:
        lam: the regularisation.
        cosine: of the angle between the plain gradient ``G`` and TrAct's ``G'``; None without a usable gradient.
        kept: ``|lam G'| / |G|``, in (0, 1]. Along an eigenvector of the covariance with eigenvalue ``s`` TrAct is
            ``G / (s + lam)``, so that ``lam G'`` is ``G`` where ``s`` is far below ``lam``, and next to nothing where it is
            far above. It distinguishes the two at any scale of inputs and gradients.
        reshaped: share of ``|G|^2`` along eigenvectors with ``s > lam``, where TrAct divides by the covariance.
        grown: ``|G'| / |G|``.
        own, other: cosine between ``-dZ`` and the change of the pre-activations that a step along ``-G'`` makes, on the
            batch of ``G'`` and on another one; None without two batches, or above 4096 features. See
            :mod:`tract_fx.probing.generalisation`.
        degrees_of_freedom: sum of ``s / (s + lam)``: how many directions have an eigenvalue above ``lam``.
    """

    lam: float
    cosine: float | None
    kept: float | None
    reshaped: float | None
    degrees_of_freedom: float
    grown: float | None = None
    own: float | None = None
    other: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class LayerProbe:
    """One first layer.

    Eigenvalues are those of the uncentred covariance ``C = X^T X / r`` of all rows seen; ``of_one_batch`` says where it
    was too large and those of one batch are given. Gradients are measured against the covariance of their own batch, as in
    training.

    Attributes:
        layer, weights: names, as in ``backend.matches``.
        description: kind and sizes.
        geometry: how rows are taken from the input.
        features: ``n``.
        rows: ``r`` of every backward pass.
        lam: at which it was probed.
        eigenvalues: ``(groups, k)``, largest first; empty when no finite input was seen.
        eigenvectors: leading ones, ``(groups, few, n)``.
        of_one_batch: see above.
        condition, condition_with_lam: largest over smallest eigenvalue of ``C`` and of ``C + lam I``, worst group.
        effective_rank: ``exp`` of the entropy of the eigenvalues (Roy and Vetterli 2007), mean over groups.
        mean_offset: share of the trace of ``C`` that the mean row makes up.
        grid: what each ``lam`` does, in ascending order; the one that was asked for is among them.
        cosines: at ``lam``, of each backward pass.
        values: of the input; None when no finite input was seen.
        filters: the weight as the layer used it, ``(groups, m, n)``.
        bad_inputs, bad_gradients, zero_gradients: numbers of backward passes.
        warnings: what is unusual.
        relative: whether every ``lam`` is in units of the mean eigenvalue ``tr(C) / n``.
        mean_eigenvalues: ``tr(C) / n`` of each backward pass with a usable gradient, averaged over groups.
        others: at ``lam``, the cosines ``other`` of :class:`GridPoint` with TrAct's and with the plain gradient, for each
            pair of consecutive batches and both directions.
        examples: how many the loader has in all, where it says so.
        norms: ``|G|`` of each backward pass with a usable gradient.
        new_norms: ``|G'|`` of each, at ``lam``.
        raised: the regularisation in squared inputs of the backward pass where it was raised most, because float64 could not
            have told ``lam`` from zero beside the inputs' squares; None where ``lam`` was used as it is.
        unit_of_lam: whether a relative or an absolute ``lam`` suits these data, and why; empty without data.
    """

    layer: str
    weights: tuple[str, ...]
    description: str
    geometry: PatchGeometry
    features: int
    rows: tuple[int, ...]
    lam: float
    eigenvalues: Tensor
    eigenvectors: Tensor
    of_one_batch: bool
    condition: float
    condition_with_lam: float
    effective_rank: float
    mean_offset: float
    grid: tuple[GridPoint, ...]
    cosines: tuple[float, ...]
    values: ValueSummary | None
    filters: Tensor
    bad_inputs: int = 0
    bad_gradients: int = 0
    zero_gradients: int = 0
    warnings: tuple[Concern, ...] = ()
    relative: bool = False
    mean_eigenvalues: tuple[float, ...] = ()
    others: tuple[tuple[float, float], ...] = ()
    examples: int | None = None
    norms: tuple[float, ...] = ()
    new_norms: tuple[float, ...] = ()
    raised: float | None = None
    unit_of_lam: str = ""

    @property
    def scaled_eigenvalues(self) -> Tensor:
        """The eigenvalues in the unit of ``lam``: as multiples of their mean where it is relative."""
        return relative_to_mean(self.eigenvalues, self.features) if self.relative else self.eigenvalues

    @property
    def name(self) -> str:
        """Of the layer, or of its weight where it has none."""
        return self.layer or ", ".join(self.weights) or "the model"

    @property
    def passes(self) -> int:
        """Backward passes seen."""
        return len(self.rows) + self.bad_inputs

    @property
    def at_lam(self) -> GridPoint:
        """The point of the grid that was asked for."""
        return next(point for point in self.grid if point.lam == self.lam)

    @property
    def suggested_lam(self) -> float | None:
        """The largest ``lam`` of the grid that does best on another batch, up to a twentieth; None if that is not known."""
        known = {point.lam: point.other for point in self.grid if point.other is not None}
        best = max(known.values(), default=0.0)
        return (
            max((lam for lam, other in known.items() if other >= CLOSE_TO_BEST * best), default=None)
            if best > 0
            else None
        )

    @property
    def verdict(self) -> str:
        """The answer in one line."""
        if not self.warnings:
            return f"{self.name}: nothing unusual in these data at lam={describe_lam(self.lam, self.relative)}"
        more = len(self.warnings) - 1
        return f"{self.name}: {self.warnings[0].sentence}{f' (and {more} more)' if more else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; None for what is infinite or not a number."""
        values = None if self.values is None else _plain(self.values)
        own = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("values", "filters", "eigenvectors", "warnings", "geometry")
        }
        return {
            "verdict": self.verdict,
            **_finite(own),
            "geometry": _finite(dataclasses.asdict(self.geometry)),
            "values": values,
            "warnings": [
                {"layer": item.layer, "kind": item.kind.value, "sentence": item.sentence, "advice": item.advice}
                for item in self.warnings
            ],
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeResult:
    """What ``tract_fx.probe`` has measured, without its renderings.

    Attributes:
        layers: one for each first layer, in the order of the graphs.
        rejections: layers and operations that the pass does not rewrite, as in ``backend.rejections``.
        lam: at which the data were probed.
        batches: how many were taken.
        loss: what was differentiated, in words.
        relative: whether ``lam`` is in units of the mean eigenvalue ``tr(C) / n``.
        gradient_norms: norm of the plain gradients of all parameters together, of each batch.
    """

    layers: tuple[LayerProbe, ...]
    rejections: tuple[LayerRejection, ...]
    lam: float
    batches: int
    loss: str
    relative: bool = False
    gradient_norms: tuple[float, ...] = ()

    @property
    def norm_of_all(self) -> tuple[float, float] | None:
        """Norm of the gradients of all parameters, plain and with TrAct: what clipping looks at; None if it is unknown."""
        pairs = [(layer.norms, layer.new_norms) for layer in self.layers]
        if not all(len(old) == len(self.gradient_norms) for old, _ in pairs) or not self.gradient_norms:
            return None  # batches without a usable gradient, or several calls of a layer
        plain = statistics.fmean(self.gradient_norms)
        added = [
            sum(new[batch] ** 2 - old[batch] ** 2 for old, new in pairs) for batch in range(len(self.gradient_norms))
        ]
        squares = [max(norm**2 + more, 0.0) for norm, more in zip(self.gradient_norms, added, strict=True)]
        return plain, statistics.fmean(map(math.sqrt, squares))

    @property
    def warnings(self) -> tuple[Concern, ...]:
        """Those of all layers."""
        return tuple(concern for layer in self.layers for concern in layer.warnings)

    @property
    def verdict(self) -> str:
        """The answer, one line for each layer."""
        return "\n".join(layer.verdict for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Everything but filters and eigenvectors, ready for JSON."""
        return {
            "verdict": self.verdict,
            "lam": self.lam,
            "relative": self.relative,
            "batches": self.batches,
            "loss": self.loss,
            "gradient_norms": _finite(self.gradient_norms),
            "layers": [layer.to_dict() for layer in self.layers],
            "rejections": [dataclasses.asdict(rejection) for rejection in self.rejections],
        }


def mean_of(values: list[float]) -> float | None:
    """Mean of the values; None if there are none."""
    return statistics.fmean(values) if values else None


def _plain(summary: ValueSummary) -> dict[str, Any]:
    fields = {field.name: getattr(summary, field.name) for field in dataclasses.fields(summary)}
    return _finite({**fields, "overall_std": summary.overall_std, "mean_share": summary.mean_share})


def _finite(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _finite(value.tolist()) if value.numel() <= MOST_LISTED or value.dim() > 1 else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _finite(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
