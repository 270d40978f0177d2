"""The covariance of all training patches, and what can be made of it: start weights and fixed filters.

For a layer that multiplies rows ``x`` with weights ``w``, whitening is ``v`` in ``v P x`` with ``P = (C + lam I)^-1/2``
and ``w = v P``. A step ``G P`` of ``v`` moves ``w`` by ``G P P = G (C + lam I)^-1``. SGD, its momentum and its weight decay
are linear in gradient and weight, so that they commute with ``P``: to train ``v`` is to train ``w`` with TrAct's gradient
for the covariance ``C``, from the start ``v P``. That is why whitening is split here into two parts, the gradient and the
start, and no whitened patch is ever written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.convergence.inputs import Inputs, inverse_root
from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry

__all__ = ["eigenvector_filters", "geometry_of", "patch_covariance", "rows_of", "whitened_start"]

CHUNK = 500


def geometry_of(layer: nn.Conv2d) -> PatchGeometry:
    """How the layer takes its patches."""
    return PatchGeometry(layer.kernel_size, layer.stride, layer.padding, layer.dilation)


def rows_of(layer: nn.Conv2d, images: Tensor) -> int:
    """Number of patches that the layer takes from `(batch, channels, height, width)`."""
    rows = len(images)
    for size in geometry_of(layer).outputs(images.shape[2:]):
        rows *= size
    return rows


def patch_covariance(layer: nn.Conv2d, inputs: Inputs) -> Tensor:
    """``C`` of all patches of a split, as the layer sees them without augmentation: float64 `(n, n)`, not centred."""
    total, rows = 0.0, 0
    for images in inputs.images.split(CHUNK):
        x = inputs.finish(images)
        total = total + gram(x, geometry_of(layer))[0]
        rows += rows_of(layer, x)
    return total / rows


@torch.no_grad()
def whitened_start(layer: nn.Conv2d, covariance: Tensor, lam: float, *, keep_norm: bool) -> None:
    """Make of the start weights ``v`` those that compute the same of raw patches as ``v`` does of whitened ones.

    Args:
        layer: whose weight `(m, channels, *kernel)` changes.
        covariance: `(n, n)`.
        lam: of the whitening.
        keep_norm: scale each filter to the norm that it had. A batch normalisation behind the layer undoes that, so that
            the function stays, and one step of plain SGD is as large against the filter as from the ordinary start.
    """
    weight = layer.weight.flatten(1).double()
    mapped = weight @ inverse_root(covariance, lam)
    if keep_norm:
        mapped *= weight.norm(dim=1, keepdim=True) / mapped.norm(dim=1, keepdim=True)
    layer.weight.copy_(mapped.view_as(layer.weight))


@torch.no_grad()
def eigenvector_filters(layer: nn.Conv2d, covariance: Tensor) -> None:
    """Set the filters to eigenvectors of ``C``, the largest eigenvalue first, each with both signs, over its deviation.

    These are the fixed filters of fast recipes for CIFAR-10 (for instance arXiv 2404.00498, section 3.2). A layer with fewer
    filters than twice its features has the leading ones; one with more repeats them.
    """
    values, vectors = torch.linalg.eigh(covariance)
    rows = (vectors / values.clamp(min=torch.finfo(torch.float32).eps).sqrt()).T.flip(0)
    signed = torch.stack((rows, -rows), dim=1).flatten(0, 1)
    chosen = torch.arange(layer.out_channels, device=signed.device) % len(signed)
    layer.weight.copy_(signed[chosen].view_as(layer.weight))
