"""Networks whose training steps are measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["MODELS"]


class Residual(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(stem: nn.Module) -> nn.Module:
    """ResNet-18 behind a stem with 64 outputs."""
    widths = [64, 64, 128, 256, 512]
    blocks = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        blocks += [Residual(inputs, outputs, 1 if number == 0 else 2), Residual(outputs, outputs, 1)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def imagenet_stem() -> nn.Module:
    """The 7x7 stem of ResNet."""
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def cifar_stem() -> nn.Module:
    """The 3x3 stem used on small images."""
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())


class VisionTransformer(nn.Module):
    """A pre-norm vision transformer with mean pooling."""

    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2, width))
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(tokens).mean(1))


# name: network, batch size, image size
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet18-224": (lambda: resnet18(imagenet_stem()), 16, 224),
    "resnet18-cifar": (lambda: resnet18(cifar_stem()), 32, 32),
    "vit-cifar": (lambda: VisionTransformer(32, 4, 384, 7, 12), 128, 32),
    "deit-s-224": (lambda: VisionTransformer(224, 16, 384, 12, 6), 16, 224),
}
