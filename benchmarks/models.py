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
        image: height and width of its RGB images.
        batch: images in a batch on a CPU and on a GPU.
        first: names of its first layers, for what has to be told.
    """

    make: Callable[[], nn.Module]
    image: int
    batch: dict[str, int]
    first: tuple[str, ...]

    def data(self, device: str, batch: int) -> tuple[Tensor, Tensor]:
        """Standardised images and labels, made from a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 3, self.image, self.image, generator=generator)
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
}
