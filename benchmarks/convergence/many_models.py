"""Small architectures of many kinds for 32x32 pixels, put together from torchvision's and timm's own classes.

Each is the library's code with fewer channels or blocks, so that two cores of a CPU can train all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["MODELS", "Architecture"]

IMAGE_SIZE = 32


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How it is built from the number of classes, and the optimiser that such networks are trained with."""

    make: Callable[[int], nn.Module]
    optimizer: str = "sgd"

    def build(self, classes: int, width: float) -> nn.Module:
        """The network; there is one width."""
        if width != 1:
            raise ValueError("this architecture has one width")
        return _with_fine_stem(self.make(classes))


def _with_fine_stem(model: nn.Module) -> nn.Module:
    """The first convolution becomes one of 3x3 pixels that moves by one; a patch embedding stays as it is."""
    name, first = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    if first.stride == first.kernel_size:
        return model
    owner, _, attribute = name.rpartition(".")
    bias = first.bias is not None
    setattr(model.get_submodule(owner), attribute, type(first)(3, first.out_channels, 3, padding=1, bias=bias))
    return model


def _resnet(block: str, classes: int, channels: tuple[int, ...] = (16, 32, 64, 128), **options: Any) -> nn.Module:
    from timm.models import resnet

    return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=classes, channels=channels, **options)


def _preactivation_resnet(classes: int) -> nn.Module:
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2([1, 1, 1], channels=(128, 256, 512), num_classes=classes, stem_chs=32)


def _densenet(classes: int) -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(3, 3, 3), num_init_features=16, num_classes=classes)


def _vgg(classes: int) -> nn.Module:
    from torchvision.models import vgg

    features = vgg.make_layers([16, "M", 32, "M", 64, 64, "M", 128, 128, "M"], batch_norm=True)
    model = vgg.VGG(features, num_classes=classes)
    model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(128, classes)
    return model


def _squeezenet(classes: int) -> nn.Module:
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(num_classes=classes)


def _mobilenet(classes: int) -> nn.Module:
    from torchvision.models import MobileNetV2

    settings = [[1, 16, 1, 2], [4, 24, 1, 2], [4, 32, 2, 2], [4, 64, 1, 1]]
    return MobileNetV2(width_mult=0.75, num_classes=classes, inverted_residual_setting=settings)


def _shufflenet(classes: int) -> nn.Module:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 256], num_classes=classes)


def _regnet(classes: int) -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    parameters = BlockParams.from_init_params(depth=6, w_0=24, w_a=24.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return RegNet(parameters, num_classes=classes, stem_width=24)


def _convnext(classes: int) -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(num_classes=classes, depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), patch_size=2)


def _mixer(classes: int, block: str = "MixerBlock") -> nn.Module:
    from timm.models import mlp_mixer

    options = {"img_size": IMAGE_SIZE, "patch_size": 4, "num_blocks": 3, "embed_dim": 64}
    return mlp_mixer.MlpMixer(num_classes=classes, block_layer=getattr(mlp_mixer, block), **options)


def _gmlp(classes: int) -> nn.Module:
    from timm.layers import GatedMlp
    from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

    options = {"img_size": IMAGE_SIZE, "patch_size": 4, "num_blocks": 3, "embed_dim": 64, "mlp_ratio": 4}
    return MlpMixer(num_classes=classes, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp, **options)


MODELS = {
    "resnet-bottleneck": Architecture(lambda classes: _resnet("Bottleneck", classes, (16, 32, 64, 96))),
    "resnext": Architecture(lambda classes: _resnet("Bottleneck", classes, (16, 32, 64, 96), cardinality=4)),
    "wide-resnet": Architecture(lambda classes: _resnet("BasicBlock", classes, (32, 64, 96, 128))),
    "se-resnet": Architecture(lambda classes: _resnet("BasicBlock", classes, block_args={"attn_layer": "se"})),
    "preact-resnet": Architecture(_preactivation_resnet),
    "densenet": Architecture(_densenet),
    "vgg": Architecture(_vgg),
    "squeezenet": Architecture(_squeezenet, "adam"),
    "mobilenet-v2": Architecture(_mobilenet),
    "shufflenet-v2": Architecture(_shufflenet),
    "regnet": Architecture(_regnet),
    "convnext": Architecture(_convnext, "adam"),
    "mlp-mixer": Architecture(_mixer, "adam"),
    "gmlp": Architecture(_gmlp, "adam"),
}
