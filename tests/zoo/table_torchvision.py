"""torchvision: every module that builds models - classification, segmentation, detection, video, optical flow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from .case import Arguments, Case, image, layers_of

# module of torchvision.models -> model -> weights of its first layers
IMAGES: dict[str, dict[str, str]] = {
    "alexnet": {"alexnet": "features.0.weight"},
    "convnext": {"convnext_tiny": "features.0.0.weight"},
    "densenet": {"densenet121": "features.conv0.weight"},
    "efficientnet": {"efficientnet_b0": "features.0.0.weight", "efficientnet_v2_s": "features.0.0.weight"},
    "googlenet": {"googlenet": "conv1.conv.weight"},
    "inception": {"inception_v3": "Conv2d_1a_3x3.conv.weight"},
    "maxvit": {"maxvit_t": "stem.0.0.weight"},
    "mnasnet": {"mnasnet0_5": "layers.0.weight"},
    "mobilenetv2": {"mobilenet_v2": "features.0.0.weight"},
    "mobilenetv3": {"mobilenet_v3_small": "features.0.0.weight"},
    "regnet": {"regnet_y_400mf": "stem.0.weight"},
    "resnet": {"resnet18": "conv1.weight"},
    "shufflenetv2": {"shufflenet_v2_x0_5": "conv1.0.weight"},
    "squeezenet": {"squeezenet1_1": "features.0.weight"},
    "swin_transformer": {"swin_t": "features.0.0.weight", "swin_v2_t": "features.0.0.weight"},
    "vgg": {"vgg11": "features.0.weight"},
    "vision_transformer": {"vit_b_32": "conv_proj.weight"},
    # Models that can be quantised are trained like all others.
    "quantization.googlenet": {"quantized_googlenet": "conv1.conv.weight"},
    "quantization.inception": {"quantized_inception_v3": "Conv2d_1a_3x3.conv.weight"},
    "quantization.mobilenetv2": {"quantized_mobilenet_v2": "features.0.0.weight"},
    "quantization.mobilenetv3": {"quantized_mobilenet_v3_large": "features.0.0.weight"},
    "quantization.resnet": {"quantized_resnet18": "conv1.weight"},
    "quantization.shufflenetv2": {"quantized_shufflenet_v2_x0_5": "conv1.0.weight"},
    "segmentation.deeplabv3": {"deeplabv3_mobilenet_v3_large": "backbone.0.0.weight"},
    "segmentation.fcn": {"fcn_resnet50": "backbone.conv1.weight"},
    "segmentation.lraspp": {"lraspp_mobilenet_v3_large": "backbone.0.0.weight"},
}
VIDEOS: dict[str, dict[str, str]] = {
    "video.mvit": {"mvit_v2_s": "conv_proj.weight"},
    "video.resnet": {"r3d_18": "stem.0.weight", "r2plus1d_18": "stem.0.weight"},
    "video.s3d": {"s3d": "features.0.0.0.weight"},
    "video.swin_transformer": {"swin3d_t": "patch_embed.proj.weight"},
}
# Both encoders see the images; the update block sees the flow, which starts as a constant.
FLOWS: dict[str, dict[str, str]] = {
    "optical_flow.raft": {"raft_small": "feature_encoder.convnormrelu.0.weight context_encoder.convnormrelu.0.weight"},
}
DETECTORS: dict[str, dict[str, str]] = {
    "detection.faster_rcnn": {"fasterrcnn_mobilenet_v3_large_320_fpn": "backbone.body.0.0.weight"},
    "detection.fcos": {"fcos_resnet50_fpn": "backbone.body.conv1.weight"},
    "detection.keypoint_rcnn": {"keypointrcnn_resnet50_fpn": "backbone.body.conv1.weight"},
    "detection.mask_rcnn": {"maskrcnn_resnet50_fpn": "backbone.body.conv1.weight"},
    "detection.retinanet": {"retinanet_resnet50_fpn": "backbone.body.conv1.weight"},
    "detection.ssd": {"ssd300_vgg16": "backbone.features.0.weight"},
    "detection.ssdlite": {"ssdlite320_mobilenet_v3_large": "backbone.features.0.0.0.weight"},
}
MADE_ON_CPU = frozenset({"regnet_y_400mf"})
INFERS_SHAPES_FROM_VALUES = "proposals, and the shapes made from them, depend on values"


def cases() -> list[Case]:
    """All rows."""
    kinds = (
        (IMAGES, "image", _image, None),
        (VIDEOS, "video", _video, None),
        (FLOWS, "image pair", _image_pair, None),
        (DETECTORS, "images and boxes", _images_and_boxes, INFERS_SHAPES_FROM_VALUES),
    )
    return [
        Case(
            id=f"torchvision:{name}",
            family=f"torchvision.{module}",
            kind=kind,
            make=functools.partial(_make, name),
            arguments=functools.partial(arguments, name),
            layers=layers_of(weights),
            real=real,
            made_on="cpu" if name in MADE_ON_CPU else "meta",
        )
        for table, kind, arguments, real in kinds
        for module, names in table.items()
        for name, weights in names.items()
    ]


# The same classes with fewer layers, where the registered models are deep in ways that dropping blocks does not shorten.
SMALLER: dict[str, Callable[[], nn.Module]] = {
    "densenet121": lambda: models.DenseNet(32, (1, 1, 1, 1), 64),
    "fcos_resnet50_fpn": lambda: detection.FCOS(_pyramid(), 2, **SMALL_IMAGES),
    "keypointrcnn_resnet50_fpn": lambda: detection.KeypointRCNN(_pyramid(), 2, **SMALL_IMAGES, **FEW_REGIONS),
    "maskrcnn_resnet50_fpn": lambda: detection.MaskRCNN(_pyramid(), 2, **SMALL_IMAGES, **FEW_REGIONS),
    "retinanet_resnet50_fpn": lambda: detection.RetinaNet(_pyramid(), 2, **SMALL_IMAGES),
}
SMALL_IMAGES = {"min_size": 64, "max_size": 64}
FEW_REGIONS = {"rpn_post_nms_top_n_train": 16, "box_batch_size_per_image": 8}


def _pyramid() -> nn.Module:
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)


def _make(name: str) -> nn.Module:
    if name in SMALLER:
        return SMALLER[name]().train()
    settings: dict[str, Any] = {"weights": None}
    if any(name in names for module, names in IMAGES.items() if "segmentation" in module):
        settings |= {"weights_backbone": None, "num_classes": 3}
    if any(name in names for names in DETECTORS.values()):
        settings |= {"weights_backbone": None, "num_classes": 2}
    if "rcnn" in name:
        settings |= SMALL_IMAGES | FEW_REGIONS
    if name in ("googlenet", "inception_v3"):
        settings |= {"init_weights": False}  # a slow way to draw them
    return models.get_model(name, **settings).train()


def _image(name: str) -> Arguments:
    return (image(299 if "inception" in name else 224),), {}


def _video(name: str) -> Arguments:
    return (torch.randn(2, 3, 16, 224, 224),), {}


def _image_pair(name: str) -> Arguments:
    return (image(128), image(128)), {"num_flow_updates": 2}


def _images_and_boxes(name: str) -> Arguments:
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
        "keypoints": torch.tensor([[[20.0, 20.0, 1.0]] * 17]),
    }
    count = 2 if "ssdlite" in name else 1  # its last feature maps have one pixel, which cannot be normalised alone
    return ([torch.rand(3, 64, 64) for _ in range(count)], [target] * count), {}
