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


class Rows(nn.Module):
    """A perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(96, 32), nn.Linear(32, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(rows).relu())


# Model, shape of a batch, whether channels come last, and the dtype of autocast.
CASES = {
    "stem": (Stem, (8, 3, 64, 64), True, torch.bfloat16),
    "patches": (Patches, (32, 3, 32, 32), False, torch.bfloat16),
    "conv float32": (Patches, (32, 3, 32, 32), False, None),
    "linear primal": (Rows, (512, 96), False, None),
    "linear dual": (Rows, (24, 96), False, None),
    "linear dual bfloat16": (Rows, (24, 96), False, torch.bfloat16),
}
# What is written of each: the plain step or the rewritten one, and for which compute capability.
BOTH = (("plain", 90, None), ("rewritten", 90, 0.1))
FAST_AND_SLOW = (("rewritten", 90, 0.1), ("rewritten sm_89", 89, 0.1))
SIDES = {name: BOTH if name in ("stem", "patches") else FAST_AND_SLOW for name in CASES}


def main() -> None:
    found = {}
    for name, (make, shape, channels_last, dtype) in CASES.items():
        memory = torch.channels_last if channels_last else torch.contiguous_format
        model, images = make().to(memory_format=memory), torch.randn(shape).to(memory_format=memory)
        for side, capability, lam in SIDES[name]:
            torch._dynamo.reset()
            written = write_step(model, images, capability, lam, dtype)
            found[f"{name} {side}"] = {"forward": written.forward, "backward": written.backward}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
