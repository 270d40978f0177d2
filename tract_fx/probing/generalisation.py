"""Whether a step along TrAct's gradient does to the next batch what it does to its own.

TrAct looks for the change of a weight that moves the pre-activations along ``-dZ``. For a gradient ``P`` from one batch, and
the rows ``X`` and gradients ``dZ`` of any batch, the cosine between ``X P^T`` and ``dZ`` says how far it succeeds there:

    <P, G> / (|dZ| sqrt(r tr(P C P^T)))     with that batch's G = dZ^T X and C = X^T X / r

On its own batch TrAct's is never below that of the plain gradient, for which ``P = G``. On *another* batch it is lower where
the small eigenvalues are those of noise, and where there are too few rows to know them.

Layout: as in :mod:`tract_fx.probing.spectrum`, float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tract_fx.probing.spectrum import Spectrum

__all__ = ["Agreement", "BatchMoments", "agreement_of"]

# Outputs that are looked at: each has its own row of the gradient, and a few dozen give the mean of all.
MOST_OUTPUTS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class BatchMoments:
    """What one batch says about its own and about another batch's gradients.

    Attributes:
        covariance: ``C``, ``(groups, n, n)``.
        gradient: ``G`` of some outputs, ``(groups, m, n)``.
        along: ``G V``, ``(groups, m, k)``.
        vectors: eigenvectors ``V`` of ``C`` that span the rows, ``(groups, n, k)``.
        spectrum: of the batch.
        norm: ``|dZ|`` of these outputs.
        rows: ``r``.
    """

    covariance: Tensor
    gradient: Tensor
    along: Tensor
    vectors: Tensor
    spectrum: Spectrum
    norm: float
    rows: int

    @classmethod
    def of(
        cls,
        covariance: Tensor,
        vectors: Tensor,
        spectrum: Spectrum,
        gradient: Tensor,
        output_gradient: Tensor,
        rows: int,
    ) -> BatchMoments:
        """Moments of a batch.

        Args:
            covariance: ``(groups, n, n)``.
            vectors: ``(groups, n, k)``, in the order of the eigenvalues.
            spectrum: of the batch.
            gradient: ``G``, ``(groups, m, n)``.
            output_gradient: ``dZ``, ``(groups, r, m)``.
            rows: ``r``.
        """
        few = slice(0, MOST_OUTPUTS)
        gradient = gradient[:, few].to(torch.float64)
        norm = output_gradient[..., few].to(torch.float64).norm().item()
        return cls(covariance, gradient, gradient @ vectors, vectors, spectrum, norm, rows)

    def direction(self, lam: float | None) -> Tensor:
        """``P``: TrAct's gradient, or the plain one where ``lam`` is None."""
        if lam is None:
            return self.gradient
        return (self.along / self.spectrum.denominators(lam)[:, None]) @ self.vectors.transpose(1, 2)

    def fit(self, direction: Tensor) -> float:
        """Cosine between the change of this batch's pre-activations along ``direction`` and ``dZ``; NaN for none."""
        product = (direction * self.gradient).sum().item()
        moved = self.rows * ((direction @ self.covariance) * direction).sum().item()
        size = math.sqrt(max(moved, 0.0)) * self.norm
        return product / size if size > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Cosines between the change of pre-activations and ``dZ``, of steps along gradients of one batch.

    Attributes:
        own: on their own batch, for each ``lam``.
        other: on another batch, for each ``lam``.
        plain: of the plain gradient, on the other batch.
    """

    own: tuple[float, ...]
    other: tuple[float, ...]
    plain: float

    @property
    def is_known(self) -> bool:
        """False where the outputs that are looked at have no gradient in one of the batches."""
        return all(map(math.isfinite, (*self.own, *self.other, self.plain)))


def agreement_of(batch: BatchMoments, another: BatchMoments, lams: Sequence[float]) -> Agreement:
    """What gradients of ``batch`` do on it and on ``another``."""
    directions = [batch.direction(lam) for lam in lams]
    own, other = (tuple(item.fit(direction) for direction in directions) for item in (batch, another))
    return Agreement(own, other, another.fit(batch.direction(None)))
