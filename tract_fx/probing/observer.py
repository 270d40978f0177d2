"""Statistics of one layer over many batches; each batch adds only a few numbers to the memory they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from tract_fx.ops.gradient import exact_gradient
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry, pad, patch_view, unfold_patches
from tract_fx.ops.transposed import as_convolution
from tract_fx.probing.generalisation import Agreement, BatchMoments, agreement_of
from tract_fx.probing.spectrum import Spectrum, dual_spectrum, eigenpairs, primal_spectrum, row_space
from tract_fx.probing.values import CHUNK_ELEMENTS, ValueStatistics

__all__ = ["LARGEST_POOLED", "PassMeasures", "Pooled", "StreamingObserver"]

# Above this many features the n x n covariance is not summed up: in float64 it takes 128 MiB, and its eigenvalues minutes.
LARGEST_POOLED = 4096

# Leading eigenvectors that are kept, for pictures.
EIGENVECTORS_KEPT = 16


@dataclasses.dataclass(frozen=True)
class PassMeasures:
    """One backward pass of a layer, with the covariance of that batch alone, as in training.

    Attributes:
        rows: ``r``.
        cosines, kept, reshaped, grown: see :class:`~tract_fx.probing.spectrum.Spectrum`, one number for each ``lam``.
        raised: what each ``lam`` was raised to, in squared inputs; 0 where it was not.
        norm: ``|G|``.
        mean_eigenvalue: ``tr(C) / n``, averaged over groups.
    """

    rows: int
    cosines: tuple[float, ...]
    kept: tuple[float, ...]
    reshaped: tuple[float, ...]
    raised: tuple[float, ...]
    grown: tuple[float, ...]
    norm: float
    mean_eigenvalue: float


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """The covariance of all rows seen, or where that is too large of the batch with the most of them.

    Attributes:
        eigenvalues: ``(groups, k)``, largest first.
        eigenvectors: the first of them, ``(groups, few, n)``.
        of_one_batch: whether it is of one batch.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    of_one_batch: bool


class StreamingObserver:
    """An :class:`~tract_fx.probing.operator.Observer` that sums up.

    Args:
        geometry: how rows are taken from an input.
        outputs: number of outputs ``m`` of one group.
        shares_batch: whether entries of a batch share one weight, see
            :class:`~tract_fx.ops.operands.Operands`; the ``n x n`` form is used then.
        lams: at which the gradient is measured.
        relative: whether they are in units of the mean eigenvalue of each batch's covariance.

    Attributes:
        samples: examples of the loader in the batch that runs; to be set before each.
        values: statistics of the inputs.
        passes: measures of the backward passes with a finite gradient that is not zero.
        agreements: of gradients of one backward pass with the next one, and of that with the one before it.
        rows: ``r`` of every backward pass with finite inputs.
        bad_inputs, bad_gradients, zero_gradients: numbers of backward passes with NaN or infinity in what the layer saw or
            in its gradient, and with a gradient of zero.
        weight: the filters, ``(groups, m, n)``, as they were in the last backward pass.
    """

    def __init__(
        self,
        geometry: PatchGeometry,
        outputs: int,
        shares_batch: bool,
        lams: Sequence[float],
        *,
        relative: bool = False,
    ) -> None:
        self.geometry = geometry
        self.outputs = outputs
        self.shares_batch = shares_batch
        self.lams = tuple(lams)
        self.relative = relative
        self.samples = 0
        self.values = ValueStatistics()
        self.passes: list[PassMeasures] = []
        self.agreements: list[Agreement] = []
        self.rows: list[int] = []
        self.bad_inputs = self.bad_gradients = self.zero_gradients = 0
        self.weight = torch.zeros(0)
        self._gram: Tensor | None = None
        self._sum: Tensor | None = None
        self._largest: Pooled | None = None
        self._before: BatchMoments | None = None

    @property
    def calls(self) -> int:
        """Backward passes seen."""
        return len(self.rows) + self.bad_inputs

    def observe(self, input: Tensor, gradient: Tensor, output_gradient: Tensor, weight: Tensor) -> None:
        """Take in the operands of one backward pass."""
        with torch.no_grad():
            self.weight = weight[:, : self.outputs].detach().clone()
            if not bool(input.isfinite().all()):
                self.bad_inputs += 1
                return
            # In a narrow dtype G has lost what an inverse amplifies. TrAct does not take it from there.
            is_rounded = gradient.dtype.itemsize < 4 and not self.shares_batch
            # What of a batched product shares a weight is rows of one layer, whose gradient is the sum.
            gradient = gradient.to(torch.float64).unflatten(1, (-1, self.outputs)).sum(1)
            geometry = dataclasses.replace(self.geometry, groups=len(gradient))
            self._add(input, None if is_rounded else gradient, output_gradient, geometry)

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, ``(groups, n)``."""
        assert self._sum is not None  # of a layer that has seen rows
        return self._sum / sum(self.rows)

    def pooled(self) -> Pooled | None:
        """Eigenvalues and eigenvectors; None when no finite row was seen."""
        if self._gram is None:
            return self._largest
        values, vectors = eigenpairs(self._gram / sum(self.rows))
        return Pooled(values.cpu(), vectors[..., :EIGENVECTORS_KEPT].transpose(1, 2).cpu(), of_one_batch=False)

    def second_moments(self) -> Tensor | None:
        """Means of products of two features, ``(groups, n, n)``; None where only those of one batch are known."""
        return None if self._gram is None else (self._gram / sum(self.rows)).cpu()

    def _add(self, seen: Tensor, gradient: Tensor | None, output_gradient: Tensor, geometry: PatchGeometry) -> None:
        input, geometry = as_convolution(seen, geometry)
        sums, rows = _sum_of_rows(input, geometry)
        if rows == 0:
            return
        if gradient is None:
            gradient = _exact_gradient(input, output_gradient, geometry)
        self.rows.append(rows)
        self.values.add(seen, self.samples)
        self._sum = sums if self._sum is None else self._sum + sums
        features = gradient.shape[-1]
        covariance = None
        if features <= LARGEST_POOLED:
            matrix = gram(input, geometry)
            self._gram = matrix if self._gram is None else self._gram + matrix
            covariance = matrix / rows
        if not bool(gradient.isfinite().all()) or not bool(output_gradient.isfinite().all()):
            self.bad_gradients += 1
            return
        is_dual = rows < features and not self.shares_batch
        if is_dual:
            spectrum = dual_spectrum(input, output_gradient, geometry)
        else:
            spectrum = primal_spectrum(gram(input, geometry) / rows if covariance is None else covariance, gradient)
        if features > LARGEST_POOLED and rows == max(self.rows):
            self._largest = _of_one_batch(spectrum, input, geometry)
        if spectrum.norm == 0:
            self.zero_gradients += 1
            return
        means = spectrum.eigenvalues.sum(1) / features
        if self.relative:
            spectrum = dataclasses.replace(spectrum, unit=means)
        self._measure(spectrum, rows, means.mean().item())
        if covariance is not None:
            vectors = row_space(input, spectrum, geometry) if is_dual else spectrum.vectors
            self._compare(BatchMoments.of(covariance, vectors, spectrum, gradient, output_gradient, rows))

    def _measure(self, spectrum: Spectrum, rows: int, mean_eigenvalue: float) -> None:
        measures = ("cosine", "kept", "reshaped", "raised", "grown")
        cosines, kept, reshaped, raised, grown = (
            tuple(getattr(spectrum, measure)(lam) for lam in self.lams) for measure in measures
        )
        self.passes.append(PassMeasures(rows, cosines, kept, reshaped, raised, grown, spectrum.norm, mean_eigenvalue))

    def _compare(self, moments: BatchMoments) -> None:
        if self._before is not None:
            pair = agreement_of(self._before, moments, self.lams), agreement_of(moments, self._before, self.lams)
            if all(agreement.is_known for agreement in pair):
                self.agreements += pair
        self._before = moments


def _sum_of_rows(input: Tensor, geometry: PatchGeometry) -> tuple[Tensor, int]:
    """Sum of the rows, ``(groups, n)``, and their number. Patches are linear in the images: the sum's are the sums."""
    total = input.new_zeros(input.shape[1:], dtype=torch.float64)
    for part in input.split(max(1, CHUNK_ELEMENTS // max(1, total.numel()))):
        total += part.sum(0, dtype=torch.float64)
    patches = patch_view(pad(total[None], geometry), geometry)
    split = 2 + len(geometry.kernel_size)
    sums = patches.flatten(split)
    return sums.sum(-1).flatten(1), len(input) * sums.shape[-1]


def _exact_gradient(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Tensor:
    """``G`` in float64, ``(groups, m, n)``, from the operands, of which ``output_gradient`` is ``(groups, rows, m)``."""
    channels = output_gradient.transpose(0, 1).flatten(1)
    images = channels.unflatten(0, (len(input), *geometry.outputs(input.shape[2:]))).movedim(-1, 1)
    return exact_gradient(input, images, geometry)


def _of_one_batch(spectrum: Spectrum, input: Tensor, geometry: PatchGeometry) -> Pooled:
    vectors = spectrum.vectors[..., :EIGENVECTORS_KEPT]
    if spectrum.vectors.shape[1] < geometry.features(input.shape[1]):  # eigenvectors of the kernel of the rows
        patches = unfold_patches(input, geometry).to(torch.float64)
        vectors = torch.nn.functional.normalize(patches.transpose(1, 2) @ vectors, dim=1)
    return Pooled(spectrum.eigenvalues.cpu(), vectors.transpose(1, 2).cpu(), of_one_batch=True)
