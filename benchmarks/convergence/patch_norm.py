"""Normalised patches: what one could do to the first layer instead of TrAct."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DualPatchNorm", "PatchNorm"]

EPSILON = 1e-5


class PatchNorm(nn.Module):
    """A convolution whose patches have mean 0 and variance 1, each for itself, before they are multiplied.

    The patches are never written: for one of ``n`` pixels with mean ``mu`` and standard deviation ``sigma``, the product
    with a filter ``w`` is ``(w . x - mu sum(w)) / sigma``, and both statistics are box filters of the image.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, height, width)` to `(batch, filters, *output)`."""
        return self._normalised(x, self.convolution.weight, self.convolution.bias)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = {"stride": self.convolution.stride, "padding": self.convolution.padding}
        box = torch.full_like(weight[:1], 1 / weight[0].numel())
        mean = nn.functional.conv2d(x, box, **geometry)
        variance = (nn.functional.conv2d(x * x, box, **geometry) - mean * mean).clamp(min=0)
        z = nn.functional.conv2d(x, weight, **geometry) - mean * weight.sum(dim=(1, 2, 3))[:, None, None]
        z = z * (variance + EPSILON).rsqrt()
        return z if bias is None else z + bias[:, None, None]


class DualPatchNorm(PatchNorm):
    """Layer normalisation with gains and offsets before and after the patch embedding (arXiv 2302.01327)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(convolution)
        self.gain = nn.Parameter(torch.ones_like(convolution.weight[0]))
        self.offset = nn.Parameter(torch.zeros_like(convolution.weight[0]))
        self.after = nn.LayerNorm(convolution.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """As in `PatchNorm`; gain and offset are moved into filters and bias."""
        weight = self.convolution.weight
        bias = (weight * self.offset).sum(dim=(1, 2, 3))
        if self.convolution.bias is not None:
            bias = bias + self.convolution.bias
        z = self._normalised(x, weight * self.gain, bias)
        return self.after(z.movedim(1, -1)).movedim(-1, 1)
