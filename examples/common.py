"""What all examples share: their arguments, real images, and a small network. The trainers are in the other files."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tract_fx.tools.images.arrays import load_digits, load_images, standardised


def parser(description: str) -> argparse.ArgumentParser:
    """Arguments of every example."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument(
        "--data", type=Path, help="folder or tar archive of class folders; scikit-learn's digits without"
    )
    arguments.add_argument("--image-size", type=int, default=32, help="side in pixels")
    arguments.add_argument("--steps", type=int, default=100, help="of the optimiser, also over all resumed runs")
    arguments.add_argument("--batch", type=int, default=32, help="images in a step, on each process")
    arguments.add_argument("--lam", type=float, default=0.1, help="regularisation of TrAct")
    arguments.add_argument("--out", type=Path, default=Path("example_run"), help="folder for the checkpoint")
    arguments.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    return arguments


def training_images(path: Path | None, size: int) -> tuple[Dataset[tuple[Tensor, Tensor]], int, int]:
    """Standardised images with their labels, number of channels, and number of classes."""
    images = load_images(path, size, limit=0, seed=0) if path else load_digits(limit=0, seed=0)
    data = standardised(images, torch.device("cpu"))
    return TensorDataset(data.train_images, data.train_labels), images.channels, len(images.classes)


class Net(nn.Module):
    """Three convolutions, `(batch, channels, side, side)` to `(batch, classes)`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(self.stem(images).relu()).mean((2, 3)))
