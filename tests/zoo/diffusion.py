"""Two small denoisers: what they are fed is an image and a time step, and both meet a layer first."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SinusoidalTime(nn.Module):
    """Time steps as sines and cosines of geometrically spaced frequencies, then two linear layers."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rates", torch.logspace(0, -4, frequencies))
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None] * self.rates
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))


class ResidualBlock(nn.Module):
    """Two convolutions, with the time step added in between."""

    def __init__(self, before: int, after: int, time_width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, after), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(time_width, after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, input: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(nn.functional.silu(self.norm1(input)))
        hidden = hidden + self.time(nn.functional.silu(time))[:, :, None, None]
        return self.shortcut(input) + self.conv2(nn.functional.silu(self.norm2(hidden)))


class UNet(nn.Module):
    """Down, middle and up, with skip connections and one attention layer in the middle."""

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.time = SinusoidalTime(8, 4 * width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = ResidualBlock(width, width, 4 * width)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = ResidualBlock(2 * width, 2 * width, 4 * width)
        self.attention = nn.MultiheadAttention(2 * width, 2, batch_first=True)
        self.grow = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = ResidualBlock(2 * width, width, 4 * width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        time = self.time(time)
        fine = self.down(self.stem(image), time)
        coarse = self.middle(self.shrink(fine), time)
        tokens = coarse.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        coarse = tokens.transpose(1, 2).unflatten(2, coarse.shape[2:])
        return self.head(self.up(torch.cat([self.grow(coarse), fine], dim=1), time))


class ConditionalTransformer(nn.Module):
    """Patches of a noisy image, modulated by the time step and by a class, which has a table of its own."""

    def __init__(self, channels: int = 4, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 2, stride=2)
        self.time = SinusoidalTime(8, width)
        self.classes = nn.Embedding(classes, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 4 * channels)

    def forward(self, image: Tensor, time: Tensor, label: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        shift, scale = self.modulation(self.time(time) + self.classes(label))[:, None].chunk(2, dim=-1)
        return self.head(self.block(self.norm(tokens) * (1 + scale) + shift))
