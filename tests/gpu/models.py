"""Small models with every kind of first layer, and where the tests of this folder run."""

import os

import torch
from torch import nn

LAM = 0.1
# A dry run on a CPU shows that the tests themselves are right.
DEVICE = os.environ.get("TRACT_FX_TEST_DEVICE", "cuda")
MODELS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3)), (16, 3, 20, 20)),
    "imagenet stem": (
        lambda: nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.Tanh()),
        (8, 3, 64, 64),
    ),
    "vit stem": (lambda: nn.Sequential(nn.Conv2d(3, 48, 16, 16), nn.Flatten(2), nn.GELU()), (32, 3, 96, 96)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.Tanh()), (8, 8, 16, 16)),
    "audio": (lambda: nn.Sequential(nn.Conv1d(1, 32, 10, 5), nn.Tanh()), (4, 1, 4000)),
    "video": (lambda: nn.Sequential(nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), nn.Tanh()), (8, 3, 4, 32, 32)),
    "linear": (lambda: nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10)), (2048, 784)),
    "dual": (lambda: nn.Sequential(nn.Linear(784, 64), nn.Tanh()), (128, 784)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model and noise for it."""
    torch.manual_seed(0)
    model, shape = MODELS[name]
    return model().to(DEVICE), torch.randn(shape, device=DEVICE)


class Autocast(nn.Module):
    """A model under autocast."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE, self.dtype):
            return self.model(x).float()
