"""Models whose first layers another model of the zoo has too: ``pytest`` examines that one only.

``python -m tests.zoo`` examines all. What is unusual in any way - computed weights, no first layer where there could be one,
a stem that no other model has - is in neither table.
"""

from __future__ import annotations

from .case import Case
from .tables import all_cases

# A model that every test run examines, and those with the same architecture.
ALIKE = {
    "timm:resnet18": ("timm:test_resnet", "torchvision:resnet18", "transformers:ResNetModel"),
    "timm:resnetv2_50x1_bit": ("timm:resnetv2_18",),
    "timm:botnet26t_256": ("timm:halonet26t",),
    "timm:test_convnext": ("torchvision:convnext_tiny", "transformers:ConvNextModel"),
    "timm:densenet121": ("torchvision:densenet121",),
    "timm:test_efficientnet": (
        "timm:test_efficientnet_evos",
        "torchvision:efficientnet_b0",
        "torchvision:efficientnet_v2_s",
        "transformers:EfficientNetModel",
    ),
    "timm:hgnetv2_b0": ("timm:hgnet_tiny",),
    "timm:inception_v3": ("torchvision:inception_v3", "torchvision:quantized_inception_v3"),
    "timm:mobilenetv3_small_050": (
        "torchvision:mobilenet_v2",
        "torchvision:mobilenet_v3_small",
        "torchvision:quantized_mobilenet_v2",
        "torchvision:quantized_mobilenet_v3_large",
        "transformers:MobileNetV1Model",
        "transformers:MobileNetV2Model",
    ),
    "timm:mobilevitv2_050": ("transformers:MobileViTModel",),
    "timm:test_maxvit": ("timm:test_coatnet", "torchvision:maxvit_t"),
    "timm:mixer_s32_224": ("timm:resmlp_12_224",),
    "timm:naflexvit_base_patch16_gap": ("timm:naflexvit_base_patch16_parfac_gap",),
    "timm:regnetx_002": ("timm:regnetv_040", "torchvision:regnet_y_400mf", "transformers:RegNetModel"),
    "timm:swin_tiny_patch4_window7_224": ("torchvision:swin_t", "transformers:SwinModel"),
    "timm:swinv2_tiny_window8_256": ("torchvision:swin_v2_t", "transformers:Swinv2Model"),
    "timm:vgg11": ("torchvision:vgg11",),
    "timm:test_vit": ("torchvision:vit_b_32",),
    "timm:levit_128s": ("transformers:LevitModel",),
    "timm:focalnet_tiny_srf": ("transformers:FocalNetModel",),
    "timm:swiftformer_xs": ("transformers:SwiftFormerModel",),
    "timm:hiera_tiny_224": ("transformers:HieraModel",),
    "timm:pvt_v2_b0": ("transformers:PvtModel",),
    "timm:poolformer_s12": ("transformers:PoolFormerModel",),
    "torchvision:googlenet": ("torchvision:quantized_googlenet",),
    "torchvision:shufflenet_v2_x0_5": ("torchvision:quantized_shufflenet_v2_x0_5",),
    "torchvision:deeplabv3_mobilenet_v3_large": ("torchvision:lraspp_mobilenet_v3_large", "torchvision:fcn_resnet50"),
    "torchvision:r3d_18": ("torchvision:r2plus1d_18",),
    "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn": (
        "torchvision:keypointrcnn_resnet50_fpn",
        "torchvision:maskrcnn_resnet50_fpn",
        "torchvision:ssdlite320_mobilenet_v3_large",
    ),
    "torchvision:fcos_resnet50_fpn": ("torchvision:retinanet_resnet50_fpn",),
    "transformers:ViTModel": (
        "transformers:DeiTModel",
        "transformers:BeitModel",
        "transformers:Dinov2Model",
        "transformers:YolosModel",
        "transformers:DPTModel",
    ),
    "transformers:Wav2Vec2Model": (
        "transformers:HubertModel",
        "transformers:WavLMModel",
        "transformers:UniSpeechModel",
        "transformers:SEWModel",
        "transformers:Wav2Vec2ConformerModel",
    ),
    "transformers:TimeSeriesTransformerModel": ("transformers:InformerModel",),
    "transformers:BertModel": ("transformers:GPT2Model", "transformers:CLIPTextModel"),
}

# A model that every test run looks at, and those of other architectures whose only first layer is the same convolution: a
# 3x3, a 7x7 and a 4x4 one on the pixels.
SAME_STEM = {
    "timm:test_efficientnet": (
        "timm:botnet26t_256",
        "timm:cpubone_nano",
        "timm:cspnext_tiny",
        "timm:efficientformerv2_s0",
        "timm:efficientvim_m1",
        "timm:efficientvit_b0",
        "timm:efficientvit_m2",
        "timm:ese_vovnet19b_slim_dw",
        "timm:gcvit_xxtiny",
        "timm:ghostnet_050",
        "timm:hardcorenas_a",
        "timm:hgnetv2_b0",
        "timm:hrnet_w18_small",
        "timm:inception_resnet_v2",
        "timm:inception_v3",
        "timm:inception_v4",
        "timm:lcnetv2_small",
        "timm:legacy_xception",
        "timm:levit_128s",
        "timm:lowformer_e1",
        "timm:mobilenetv5_base",
        "timm:mobilevitv2_050",
        "timm:nasnetalarge",
        "timm:nextvit_small",
        "timm:pnasnet5large",
        "timm:repghostnet_050",
        "timm:repvit_m1_1",
        "timm:resnest14d",
        "timm:rexnet_100",
        "timm:selecsls42",
        "timm:shvit_s1",
        "timm:swiftformer_xs",
        "timm:tiny_vit_5m_224",
        "timm:xception41p",
        "torchvision:ssd300_vgg16",
    ),
    "timm:test_convnext": (
        "timm:coat_lite_tiny",
        "timm:inception_next_atto",
        "timm:nest_tiny",
        "timm:rdnet_tiny",
        "timm:twins_svt_small",
    ),
    "timm:resnet18": (
        "timm:davit_tiny",
        "timm:dla34",
        "timm:hieradet_small",
        "timm:legacy_seresnet18",
        "timm:mvitv2_tiny",
        "timm:pvt_v2_b0",
        "timm:res2net50_26w_4s",
        "timm:sequencer2d_s",
        "timm:skresnet18",
        "timm:tnt_s_patch16_224",
        "timm:visformer_tiny",
        "timm:volo_d1_224",
        "torchvision:fcos_resnet50_fpn",
        "torchvision:quantized_resnet18",
        "transformers:PerceiverForImageClassificationConvProcessing",
    ),
}


def different_cases() -> list[Case]:
    """Every model that is not like another one."""
    like_another = {identifier for table in (ALIKE, SAME_STEM) for others in table.values() for identifier in others}
    return [case for case in all_cases() if case.id not in like_another]
