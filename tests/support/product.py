"""A layer that is a product in any form."""

from collections.abc import Callable

import torch
from torch import nn


class Product(nn.Module):
    """A product of the input with a parameter."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.function(x, self.w))
