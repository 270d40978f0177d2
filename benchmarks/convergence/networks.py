"""The networks that are trained. The first layer of each reads the images themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tract_fx.tools.demo.models import ResidualBlock, SmallViT

__all__ = [
    "Builder",
    "coarse_vit",
    "deep_vit",
    "first_layer_name",
    "resnet18",
    "small_resnet",
    "small_vit",
    "vit",
]

Builder = Callable[[int, float], nn.Module]
"""Makes a network from the number of classes and a factor on its width."""

IMAGE_SIZE = 32


class SmallResNet(nn.Module):
    """3x3 stem at full resolution, then one residual block per halving: ResNet-18's shape at a fiftieth of its cost."""

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(ResidualBlock(before, after, stride=2) for before, after in pairs))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, 3, size, size)` to class scores `(batch, classes)`."""
        x = self.blocks(nn.functional.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def small_resnet(classes: int, width: float) -> nn.Module:
    """Stem of 16 filters at width 1."""
    return SmallResNet(classes, tuple(round(width * channels) for channels in (16, 32, 64)))


def small_vit(classes: int, width: float, patch: int = 4, depth: int = 3) -> nn.Module:
    """The paper's patches of 4x4 pixels; 3 layers, 4 heads, width 48."""
    return SmallViT(3, classes, IMAGE_SIZE, width=round(12 * width) * 4, depth=depth, heads=4, patch=patch)


def coarse_vit(classes: int, width: float) -> nn.Module:
    """The small one with patches of 8x8 pixels."""
    return small_vit(classes, width, patch=8)


def deep_vit(classes: int, width: float) -> nn.Module:
    """The small one with the paper's 7 layers."""
    return small_vit(classes, width, depth=7)


class ResNet18(nn.Module):
    """ResNet-18 for small images: 3x3 stem without pooling, four stages of two of torchvision's basic blocks."""

    def __init__(self, classes: int, stem: int) -> None:
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(stem)
        widths = [stem << stage for stage in range(4)]
        blocks = []
        for before, after in zip((stem, *widths), widths, strict=False):
            stride = after // before
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            blocks += [BasicBlock(before, after, stride, shortcut if stride > 1 else None), BasicBlock(after, after)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, 3, size, size)` to class scores `(batch, classes)`."""
        x = self.blocks(nn.functional.relu(self.norm(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def resnet18(classes: int, width: float) -> nn.Module:
    """Stem of 64 filters at width 1."""
    return ResNet18(classes, round(64 * width))


def vit(classes: int, width: float) -> nn.Module:
    """The paper's vision transformer: patches of 4x4 pixels, 7 layers, 12 heads, width 384."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=4, embed_dim=round(32 * width) * 12, depth=7, num_heads=12, num_classes=classes
    )


def first_layer_name(model: nn.Module) -> str:
    """Name of the convolution that reads the images: the one that runs first."""
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    parameter = next(model.parameters())
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return ran[0]
