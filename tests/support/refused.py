"""A layer that cannot be rewritten."""

from torch import Tensor, nn


class Pairs(nn.Bilinear):
    """``(features, features, outputs)``, along the last dimension of its only input."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies all pairs of features."""
        return super().forward(x, x)
