"""Explanations of small models that show each thing a page can show; each is made once."""

from __future__ import annotations

import functools

import torch
from torch import nn

from support.refused import Pairs
from tract_fx.inspect.explanation import Explanation, explain

IMAGES = (4, 3, 12, 10)


class Broken(nn.Module):
    """A graph break behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        torch._dynamo.graph_break()
        return self.head(x.mean((2, 3)))


class Stems(nn.Module):
    """Two first layers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 4, 3)
        self.table = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.image(x)).mean((2, 3)) + torch.relu(self.table(y))


class Standardised(nn.Module):
    """A weight that is computed from the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.stem.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return torch.tanh(nn.functional.conv2d(x, weight, self.stem.bias))


class Narrow(nn.Module):
    """Under autocast the gradient of the weight is cast, which the pass removes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.tanh(self.stem(x))


class Twice(nn.Module):
    """One layer, called on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.stem(x)).sum() + torch.relu(self.stem(y)).sum()


class Batched(nn.Module):
    """A weight for each entry of a batch, and fewer rows than features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.einsum("bgi,gio->bgo", x, self.weight))


def stem(*args: int, **kwargs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(*args, **kwargs), nn.BatchNorm2d(args[1]), nn.Tanh())


@functools.cache
def explained(name: str) -> Explanation:
    """By what it shows."""
    torch.manual_seed(0)
    match name:
        case "primal":
            return explain(stem(3, 4, 3, stride=2), torch.randn(IMAGES))
        case "groups":
            return explain(stem(6, 4, 3, groups=2), torch.randn(4, 6, 12, 10))
        case "dual":
            return explain(nn.Sequential(nn.Linear(30, 4), nn.Tanh()), torch.randn(7, 30))
        case "dual groups":
            return explain(stem(16, 8, 3, groups=2), torch.randn(2, 16, 4, 4))
        case "breaks":
            return explain(Broken(), torch.randn(IMAGES))
        case "stems":
            return explain(Stems(), torch.randn(IMAGES), torch.randn(9, 6)[:4])
        case "weight from a parameter":
            return explain(Standardised(), torch.randn(IMAGES))
        case "autocast":
            return explain(Narrow(), torch.randn(IMAGES))
        case "dynamic":
            return explain(stem(3, 4, 3, stride=2), torch.randn(5, 3, 12, 10), dynamic=True)
        case "twice":
            return explain(Twice(), torch.randn(IMAGES), torch.randn(5, 3, 9, 8))
        case "batched":
            return explain(Batched(), torch.randn(3, 2, 6))
        case "rejected":
            return explain(nn.Sequential(Pairs(IMAGES[-1], IMAGES[-1], 4), nn.Tanh()), torch.randn(IMAGES))
        case "no first layer":
            return explain(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.randint(0, 9, (5,)))
        case "skipped":
            return explain(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).requires_grad_(False), torch.randn(IMAGES))
    raise KeyError(name)


REWRITTEN = (
    "primal", "groups", "dual", "dual groups", "breaks", "stems", "weight from a parameter", "autocast", "dynamic",
    "twice", "batched",
)  # fmt: skip
EXPLAINED = (*REWRITTEN, "rejected", "no first layer", "skipped")
