"""Prints, as JSON, the CUDA code of small networks: plain and with the pass. ``test_cuda_code.py`` runs it."""

import json
import sys

import torch
from torch import nn

from support.cuda_code import write_step


class Stem(nn.Module):
    """The beginning of a ResNet, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, 2, 1, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv2(self.norm(self.conv1(images)).relu()).relu().mean((2, 3)))


class Patches(nn.Module):
    """The beginning of a vision transformer, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 32, 4, 4)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.proj(images).flatten(2).transpose(1, 2)).mean(1))


CASES = {"stem": (Stem, (8, 3, 64, 64), True), "patches": (Patches, (32, 3, 32, 32), False)}


def main() -> None:
    found = {}
    for name, (make, shape, channels_last) in CASES.items():
        memory = torch.channels_last if channels_last else torch.contiguous_format
        model, images = make().to(memory_format=memory), torch.randn(shape).to(memory_format=memory)
        for side, lam in (("plain", None), ("rewritten", 0.1)):
            torch._dynamo.reset()
            written = write_step(model, images, 90, lam)
            found[f"{name} {side}"] = {"forward": written.forward, "backward": written.backward}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
