"""Networks whose training steps are measured, and what they are fed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["WORKLOADS", "Workload"]

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and its batches.

    Attributes:
        make: builds the network.
        image: height and width of its images.
        batch: images in a batch on a CPU and on a GPU.
        first: names of its first layers, for what has to be told.
        sample: shape of a sample that is not one RGB image.
    """

    make: Callable[[], nn.Module]
    image: int
    batch: dict[str, int]
    first: tuple[str, ...]
    sample: tuple[int, ...] = ()

    def data(self, device: str, batch: int) -> tuple[Tensor, Tensor]:
        """Standardised images and labels, made from a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, *(self.sample or (3, self.image, self.image)), generator=generator)
        return x.to(device), torch.randint(0, CLASSES, (batch,), generator=generator).to(device)


def resnet(name: str, *, small_images: bool = False) -> nn.Module:
    """A ResNet; for small images with a 3x3 stem and no pooling behind it."""
    from torchvision import models

    model = models.get_model(name, num_classes=CLASSES)
    if small_images:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def vision_transformer(image: int, patch: int, depth: int, heads: int) -> nn.Module:
    """A vision transformer of width 384."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image, patch_size=patch, embed_dim=384, depth=depth, num_heads=heads, num_classes=CLASSES
    )


def perceptron(image: int) -> nn.Module:
    """A multi-layer perceptron on flattened pixels."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * image**2, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, CLASSES),
    )


def small_network() -> nn.Module:
    """A convolutional network of the size that tutorials train on 32-pixel images."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, CLASSES),
    )


def video_network() -> nn.Module:
    """A small network whose first layer sees 3 frames of 5 x 5 pixels."""
    return nn.Sequential(
        nn.Conv3d(3, 16, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2)),
        nn.ReLU(),
        nn.Conv3d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class Forecaster(nn.Module):
    """A linear layer for the trend and one for the rest of each channel of a time series, as DLinear has them."""

    def __init__(self, channels: int = 20, past: int = 96, future: int = 24) -> None:
        super().__init__()
        self.trend = nn.ModuleList(nn.Linear(past, future) for _ in range(channels))
        self.rest = nn.ModuleList(nn.Linear(past, future) for _ in range(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, past)`` to scores ``(batch, future)``."""
        trend = nn.functional.avg_pool1d(nn.functional.pad(x, (12, 12), mode="replicate"), 25, 1)
        rest = x - trend
        parts = [
            of_trend(trend[:, index]) + of_rest(rest[:, index])
            for index, (of_trend, of_rest) in enumerate(zip(self.trend, self.rest, strict=True))
        ]
        return torch.stack(parts).sum(0)


# The vision transformer for CIFAR is the paper's: patches of 4, 7 layers, 12 heads.
WORKLOADS = {
    "resnet18-cifar": Workload(lambda: resnet("resnet18", small_images=True), 32, {"cpu": 32, "cuda": 128}, ("conv1",)),
    "vit-cifar": Workload(
        lambda: vision_transformer(32, 4, 7, 12), 32, {"cpu": 128, "cuda": 128}, ("patch_embed.proj",)
    ),
    "resnet18-224": Workload(lambda: resnet("resnet18"), 224, {"cpu": 16, "cuda": 256}, ("conv1",)),
    "resnet50-224": Workload(lambda: resnet("resnet50"), 224, {"cpu": 8, "cuda": 256}, ("conv1",)),
    "deit-s-224": Workload(
        lambda: vision_transformer(224, 16, 12, 6), 224, {"cpu": 16, "cuda": 256}, ("patch_embed.proj",)
    ),
    "mlp-32": Workload(lambda: perceptron(32), 32, {"cpu": 128, "cuda": 4096}, ("1",)),
    "small-cnn-32": Workload(small_network, 32, {"cpu": 128, "cuda": 4096}, ("0",)),
    "video-32": Workload(video_network, 32, {"cpu": 4, "cuda": 64}, ("0",), (3, 8, 32, 32)),
    "forecaster-96": Workload(
        Forecaster,
        96,
        {"cpu": 32, "cuda": 256},
        tuple(f"{part}.{index}" for part in ("trend", "rest") for index in range(20)),
        (20, 96),
    ),
}
