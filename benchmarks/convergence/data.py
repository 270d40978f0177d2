"""Images of a training set, whole and on the device."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.convergence.inputs import INPUTS, Inputs
from benchmarks.convergence.networks import IMAGE_SIZE
from tract_fx.tools.images.arrays import load_images
from tract_fx.tools.images.sampling import balanced

__all__ = ["Images", "load"]

DOWNLOADS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
CHOICE_SEED = 0


@dataclasses.dataclass(frozen=True)
class Images:
    """uint8 `(images, 3, 32, 32)` with int64 labels for training and testing, on one device."""

    name: str
    classes: int
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def inputs(self, kind: str, noise: float) -> tuple[Inputs, Inputs]:
        """Training and test images as a run wants them."""
        return INPUTS[kind](self.train, self.test, noise)

    def record(self) -> dict[str, str | int]:
        """What the first line of a run's file says of its images."""
        return {"name": self.name, "classes": self.classes, "train": len(self.train), "test": len(self.test)}


def load(data: str, downloads: Path, train: int, test: int, device: str) -> Images:
    """Read a set.

    Args:
        data: a folder or archive of class folders, or ``"cifar10"`` or ``"cifar100"``, which torchvision downloads.
        downloads: where the latter go.
        train: training images, balanced over the classes, always the same ones; 0 for all.
        test: the same for test images.
        device: where they are kept.

    Raises:
        ImageError: if a folder or archive has no such images.
    """
    if data in DOWNLOADS:
        images = _torchvision(data, downloads)
    else:
        found = load_images(Path(data), IMAGE_SIZE, limit=0, seed=CHOICE_SEED)
        pixels = [part.expand(-1, 3, -1, -1) for part in (found.train_images, found.test_images)]
        images = Images(found.name, len(found.classes), pixels[0], found.train_labels, pixels[1], found.test_labels)
    return _some(images, train, test, device)


def _torchvision(name: str, downloads: Path) -> Images:
    from torchvision import datasets

    splits = [getattr(datasets, DOWNLOADS[name])(downloads, train=train, download=True) for train in (True, False)]
    pixels = [torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))) for split in splits]
    labels = [torch.tensor(split.targets) for split in splits]
    return Images(name, len(splits[0].classes), pixels[0], labels[0], pixels[1], labels[1])


def _some(images: Images, train: int, test: int, device: str) -> Images:
    def part(pixels: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if count and count < len(labels):
            names = [str(label) for label in labels.tolist()]
            chosen = torch.tensor(balanced(names, range(len(names)), count, random.Random(CHOICE_SEED)))
            pixels, labels = pixels[chosen], labels[chosen]
        return pixels.contiguous().to(device), labels.to(device)

    return Images(
        images.name,
        images.classes,
        *part(images.train, images.train_labels, train),
        *part(images.test, images.test_labels, test),
    )
