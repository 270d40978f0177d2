"""A gradient seen along the eigenvectors of the covariance: what TrAct does to it, for every ``lam`` at once.

With ``C = V diag(s) V^T``, TrAct's gradient ``G' = G (C + lam I)^-1`` divides the part of ``G`` along each eigenvector by
``s + lam``. Norms and angles follow from the eigenvalues ``s`` and the *energies* ``|G v|^2`` alone.

Layout: ``(groups, k)`` for both, largest eigenvalue first; a gradient is ``(groups, m, n)``, gradients of pre-activations
are ``(groups, r, m)``. Everything is float64.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tract_fx.ops.gram import gram
from tract_fx.ops.patches import LINEAR, PatchGeometry, unfold_patches
from tract_fx.ops.solve import shift

__all__ = [
    "Spectrum",
    "condition",
    "degrees_of_freedom",
    "dual_spectrum",
    "effective_rank",
    "eigenpairs",
    "primal_spectrum",
    "relative_to_mean",
    "row_space",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """A covariance and a gradient along its eigenvectors.

    Attributes:
        eigenvalues: ``s``, ``(groups, k)``, not negative, largest first.
        energies: ``|G v|^2``, ``(groups, k)``.
        matrix: of which they are eigenvalues, ``(groups, k, k)``: the covariance, or the rows' kernel ``X X^T / r``.
        vectors: eigenvectors of ``matrix``, ``(groups, k, k)``, in columns.
        unit: of ``lam``: 1, or for each group the mean eigenvalue ``tr(C) / n``, ``(groups,)``.
    """

    eigenvalues: Tensor
    energies: Tensor
    matrix: Tensor
    vectors: Tensor
    unit: Tensor | float = 1.0

    @property
    def norm(self) -> float:
        """``|G|``."""
        return self.energies.sum().sqrt().item()

    def cosine(self, lam: float) -> float:
        """Cosine of the angle between ``G`` and ``G'``; NaN for a gradient of zero."""
        weights = 1 / self.denominators(lam)
        product = (self.energies * weights).sum()
        return (product / (self.energies.sum() * (self.energies * weights**2).sum()).sqrt()).clamp(max=1.0).item()

    def kept(self, lam: float) -> float:
        """``|lam G'| / |G|``: 1 where TrAct only divides by ``lam``, near 0 where it damps all that ``G`` consists of.

        Along an eigenvector with eigenvalue ``s`` it is ``lam / (s + lam)``.
        """
        shrunk = self.energies * (self._scaled(lam) / self.denominators(lam)) ** 2
        return (shrunk.sum() / self.energies.sum()).sqrt().item()

    def reshaped(self, lam: float) -> float:
        """Share of the energy of ``G`` along eigenvectors with ``s > lam``: there TrAct divides by the covariance."""
        return (self.energies[self.eigenvalues > self._scaled(lam)].sum() / self.energies.sum()).item()

    def raised(self, lam: float) -> float:
        """The largest regularisation of a group that :func:`~tract_fx.ops.solve.regularise` raises; 0 where none is."""
        asked = torch.zeros(len(self.matrix), dtype=torch.float64, device=self.matrix.device) + lam * self.unit
        added = shift(self.matrix, lam * self.unit)
        return torch.where(added > asked, added, 0.0).max().item()

    def grown(self, lam: float) -> float:
        """``|G'| / |G|``."""
        new = (self.energies / self.denominators(lam) ** 2).sum()
        return (new / self.energies.sum()).sqrt().item()

    def denominators(self, lam: float) -> Tensor:
        """``s + lam`` of each eigenvector, ``(groups, k)``."""
        return self.eigenvalues + shift(self.matrix, lam * self.unit)[:, None]

    def _scaled(self, lam: float) -> Tensor | float:
        return lam * self.unit[:, None] if isinstance(self.unit, Tensor) else lam


def primal_spectrum(covariance: Tensor, gradient: Tensor) -> Spectrum:
    """From the ``n x n`` covariance.

    Args:
        covariance: ``(groups, n, n)``.
        gradient: ``G``, ``(groups, m, n)``.
    """
    values, vectors = eigenpairs(covariance)
    return Spectrum(values, (gradient.to(torch.float64) @ vectors).square().sum(1), covariance, vectors)


def dual_spectrum(input: Tensor, output_gradient: Tensor, geometry: PatchGeometry) -> Spectrum:
    """From the ``r x r`` kernel of the rows, which has the same eigenvalues but for zeros.

    With ``X X^T / r = U diag(s) U^T``, the covariance has the eigenvectors ``X^T u / sqrt(r s)``, and the energy of
    ``G = dZ^T X`` along them is ``r s |dZ^T u|^2``.

    Args:
        input: what the layer saw, ``(batch, channels, *spatial)`` or ``(r, groups * n)``.
        output_gradient: ``dZ``, ``(groups, r, m)``.
        geometry: how rows are taken from ``input``.
    """
    patches = unfold_patches(input, geometry)
    rows = patches.shape[1]
    kernel = torch.stack([gram(columns, LINEAR)[0] for columns in patches.transpose(1, 2).unbind()]) / rows
    values, vectors = eigenpairs(kernel)
    energies = rows * values * (output_gradient.to(torch.float64).transpose(1, 2) @ vectors).square().sum(1)
    return Spectrum(values, energies, kernel, vectors)


def row_space(input: Tensor, spectrum: Spectrum, geometry: PatchGeometry) -> Tensor:
    """Eigenvectors of the covariance that span the rows, ``(groups, n, k)``, from those of the rows' kernel.

    They are ``X^T u / sqrt(r s)``; those of eigenvalues that are rounding are zero.
    """
    patches = unfold_patches(input, geometry).to(torch.float64)
    lengths = (patches.shape[1] * spectrum.eigenvalues).sqrt()
    rounding = torch.finfo(torch.float64).eps ** 0.5 * lengths[:, :1]
    scale = torch.where(lengths > rounding, 1 / lengths, 0.0)
    return patches.transpose(1, 2) @ spectrum.vectors * scale[:, None]


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, negative ones of rounding set to zero, and eigenvectors in columns."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(-1).clamp(min=0.0), vectors.flip(-1)


def condition(eigenvalues: Tensor, lam: float = 0.0) -> float:
    """Largest over smallest eigenvalue of ``C + lam I``, of the worst group; infinite for a singular matrix.

    An eigenvalue below the float64 rounding error of the largest one counts as zero.
    """
    largest, smallest = eigenvalues[:, 0], eigenvalues[:, -1]
    rounding = eigenvalues.shape[1] * torch.finfo(torch.float64).eps * largest
    smallest = torch.where(smallest > rounding, smallest, 0.0) + lam
    ratio = torch.where(smallest > 0, (largest + lam) / smallest, torch.inf)
    return ratio.max().item()


def relative_to_mean(eigenvalues: Tensor, features: int) -> Tensor:
    """Eigenvalues as multiples of the mean of all ``n`` of their group, of which ``k`` may be given and the rest zero."""
    mean = eigenvalues.sum(-1, keepdim=True) / features
    return eigenvalues / torch.where(mean > 0, mean, 1.0)


def effective_rank(eigenvalues: Tensor) -> float:
    """``exp`` of the entropy of the eigenvalues as shares of the trace (Roy and Vetterli 2007), averaged over groups.

    ``n`` for a multiple of the identity, 1 when one direction has everything; 0 for a matrix of zeros.
    """
    trace = eigenvalues.sum(-1, keepdim=True)
    shares = eigenvalues / trace.clamp(min=torch.finfo(torch.float64).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return torch.where(trace[:, 0] > 0, entropy.exp(), 0.0).mean().item()


def degrees_of_freedom(eigenvalues: Tensor, lam: float) -> float:
    """Sum of ``s / (s + lam)``, averaged over groups: how many directions are above ``lam``, as in ridge regression."""
    return (eigenvalues / (eigenvalues + lam)).sum(-1).mean().item()
