"""The two networks of the demo, small enough that compiling and training them takes a minute on two CPU cores.

Their first layers are the two usual kinds: a 3x3 convolution with overlapping patches, and a patch embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SIZE_STEP = 8
"""Image sides are multiples of this: the ResNet halves twice, the ViT cuts up to 8 patches per side."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity or a strided 1x1 shortcut."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        keeps_shape = stride == 1 and in_width == width
        self.shortcut = nn.Identity() if keeps_shape else nn.Conv2d(in_width, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, in_width, height, width)` to `(batch, width, height / stride, width / stride)`."""
        y = nn.functional.relu(self.norm1(self.conv1(x)))
        return nn.functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A CIFAR-style residual network: 3x3 stem, one block per stage, global average pooling."""

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, stride=2 if i else 1) for i, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        """The layer that reads the images."""
        return self.stem

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(batch, channels, size, size)` to class scores `(batch, classes)`."""
        x = self.blocks(nn.functional.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then a two-layer perceptron, each on a residual branch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens `(batch, tokens, width)` to tokens of the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class SmallViT(nn.Module):
    """A pre-norm vision transformer with learned positions and mean pooling over the patches."""

    def __init__(
        self,
        channels: int,
        classes: int,
        image_size: int,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        patch: int | None = None,
    ) -> None:
        super().__init__()
        patch = patch or patch_size(image_size)
        self.patch_embedding = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (image_size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    @property
    def first_layer(self) -> nn.Conv2d:
        """The layer that reads the images."""
        return self.patch_embedding

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(batch, channels, size, size)` to class scores `(batch, classes)`."""
        tokens = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


def patch_size(image_size: int) -> int:
    """Side of a square patch in pixels: 4 patches per image side up to 16 pixels, 8 above."""
    return image_size // (4 if image_size <= 16 else 8)


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained, the same for both sides.

    Attributes:
        title: its name in tables and pictures.
        build: makes the network from channels, classes and image size.
        optimizer: see `training.loop.make_optimizer`.
        peak_rate: learning rate at the top of the one-cycle schedule.
    """

    title: str
    build: Callable[[int, int, int], nn.Module]
    optimizer: str
    peak_rate: float


RECIPES = {
    "resnet": Recipe(
        "ResNet",
        lambda channels, classes, _: SmallResNet(channels, classes),
        "sgd",
        peak_rate=0.1,
    ),
    "vit": Recipe("ViT", SmallViT, "adam", peak_rate=2e-3),
}
