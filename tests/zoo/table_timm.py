"""timm: for every module that builds models, a cheap one of each kind of stem it has."""

from __future__ import annotations

import functools
from typing import Any

import timm
from torch import nn

from .case import Arguments, Case, image, layers_of

# module of timm -> model -> weights of its first layers
TABLE: dict[str, dict[str, str]] = {
    "beit": {"beit_base_patch16_224": "patch_embed.proj.weight"},
    "byoanet": {"botnet26t_256": "stem.conv1.conv.weight", "halonet26t": "stem.conv1.conv.weight"},
    "byobnet": {
        "test_byobnet": "stem.conv.weight",
        "repvgg_b0": "stem.conv_kxk.conv.weight stem.conv_1x1.conv.weight",
        "mobileone_s1": "stem.conv_kxk.0.conv.weight stem.conv_scale.conv.weight",
    },
    "cait": {"cait_xxs24_224": "patch_embed.proj.weight"},
    "coat": {"coat_lite_tiny": "patch_embed1.proj.weight"},
    "convit": {"convit_tiny": "patch_embed.proj.weight"},
    "convmixer": {"convmixer_1024_20_ks9_p14": "stem.0.weight"},
    "convnext": {"test_convnext": "stem.0.weight"},
    "cpubone": {"cpubone_nano": "stem.0.conv.weight"},
    "crossvit": {"crossvit_9_240": "patch_embed.0.proj.weight patch_embed.1.proj.weight"},
    "csatv2": {"csatv2": "stem_dct.conv_y.weight stem_dct.conv_cb.weight stem_dct.conv_cr.weight"},
    "cspnet": {"darknet17": "stem.conv1.conv.weight"},
    "cspnext": {"cspnext_tiny": "stem.0.conv.weight"},
    "davit": {"davit_tiny": "stem.conv.weight"},
    "deepseek_vit": {"deepseek_vit_412m": "encoder.patch_embed.proj.weight"},
    "deit": {"deit_tiny_patch16_224": "patch_embed.proj.weight"},
    "densenet": {"densenet121": "features.conv0.weight"},
    "dla": {"dla34": "base_layer.0.weight"},
    "dpn": {"dpn48b": "features.conv1_1.conv.weight"},
    "edgenext": {"edgenext_xx_small": "stem.0.weight"},
    "efficientformer": {"efficientformer_l1": "stem.conv1.weight"},
    "efficientformer_v2": {"efficientformerv2_s0": "stem.conv1.conv.weight"},
    "efficientnet": {"test_efficientnet": "conv_stem.weight", "test_efficientnet_evos": "conv_stem.weight"},
    "efficientvim": {"efficientvim_m1": "patch_embed.conv.0.conv.weight"},
    "efficientvit_mit": {"efficientvit_b0": "stem.in_conv.conv.weight"},
    "efficientvit_msra": {"efficientvit_m2": "patch_embed.conv1.conv.weight"},
    "eva": {"eva02_tiny_patch14_224": "patch_embed.proj.weight"},
    "fasternet": {"fasternet_t0": "patch_embed.proj.weight"},
    "fastvit": {"fastvit_t8": "stem.0.conv_kxk.0.conv.weight stem.0.conv_scale.conv.weight"},
    "focalnet": {"focalnet_tiny_srf": "stem.proj.weight"},
    "gcvit": {"gcvit_xxtiny": "stem.conv1.weight"},
    "gemma4_vit": {"gemma4_vit_167m": "encoder.patch_embed.input_proj.weight"},
    "ghostnet": {"ghostnet_050": "conv_stem.weight"},
    "hardcorenas": {"hardcorenas_a": "conv_stem.weight"},
    "hgnet": {"hgnet_tiny": "stem.stem.0.conv.weight", "hgnetv2_b0": "stem.stem1.conv.weight"},
    "hiera": {"hiera_tiny_224": "patch_embed.proj.weight"},
    "hieradet_sam2": {"hieradet_small": "patch_embed.proj.weight"},
    "hrnet": {"hrnet_w18_small": "conv1.weight"},
    "iformer": {"iformer_t": "stem.conv1.c.weight"},
    "inception_next": {"inception_next_atto": "stem.0.weight"},
    "inception_resnet_v2": {"inception_resnet_v2": "conv2d_1a.conv.weight"},
    "inception_v3": {"inception_v3": "Conv2d_1a_3x3.conv.weight"},
    "inception_v4": {"inception_v4": "features.0.conv.weight"},
    "lcnetv2": {"lcnetv2_small": "stem.0.conv.weight"},
    "levit": {"levit_128s": "stem.conv1.linear.weight"},
    "lowformer": {"lowformer_e1": "stem.0.conv.weight"},
    "mambaout": {"test_mambaout": "stem.conv1.weight"},
    "maxxvit": {"test_coatnet": "stem.conv1.weight", "test_maxvit": "stem.conv1.weight"},
    "metaformer": {"poolformer_s12": "stem.conv.weight"},
    "mlp_mixer": {"mixer_s32_224": "stem.proj.weight", "resmlp_12_224": "stem.proj.weight"},
    "mobilenetv3": {"mobilenetv3_small_050": "conv_stem.weight"},
    "mobilenetv5": {"mobilenetv5_base": "conv_stem.conv.weight"},
    "mobilevit": {"mobilevitv2_050": "stem.conv.weight"},
    "mvitv2": {"mvitv2_tiny": "patch_embed.proj.weight"},
    "naflexvit": {
        "naflexvit_base_patch16_gap": "embeds.proj.weight",
        "naflexvit_base_patch16_parfac_gap": "embeds.proj.weight",
    },
    "nasnet": {"nasnetalarge": "conv0.conv.weight"},
    "nest": {"nest_tiny": "patch_embed.proj.weight"},
    "nextvit": {"nextvit_small": "stem.0.conv.weight"},
    "nfnet": {"test_nfnet": "stem.conv1.gain+stem.conv1.weight"},
    "pit": {"pit_ti_224": "patch_embed.conv.weight"},
    "pnasnet": {"pnasnet5large": "conv_0.conv.weight"},
    "pvt_v2": {"pvt_v2_b0": "patch_embed.proj.weight"},
    "qwen3_vit": {"qwen3_vit_88m": "encoder.patch_embed.proj.weight"},
    "rdnet": {"rdnet_tiny": "stem.0.weight"},
    "regnet": {"regnetx_002": "stem.conv.weight", "regnetv_040": "stem.weight"},
    "repghost": {"repghostnet_050": "conv_stem.weight"},
    "repvit": {"repvit_m1_1": "stem.conv1.c.weight"},
    "res2net": {"res2net50_26w_4s": "conv1.weight"},
    "resnest": {"resnest14d": "conv1.0.weight"},
    "resnet": {"resnet18": "conv1.weight", "test_resnet": "conv1.0.weight"},
    "resnetv2": {"resnetv2_18": "stem.conv.weight", "resnetv2_50x1_bit": "stem.conv.weight"},
    "rexnet": {"rexnet_100": "stem.conv.weight"},
    "selecsls": {"selecsls42": "stem.0.weight"},
    "senet": {"legacy_seresnet18": "layer0.conv1.weight"},
    "sequencer": {"sequencer2d_s": "stem.proj.weight"},
    "shvit": {"shvit_s1": "patch_embed.0.c.weight"},
    "sknet": {"skresnet18": "conv1.weight"},
    "starnet": {"starnet_s050": "stem.0.conv.weight"},
    "swiftformer": {"swiftformer_xs": "stem.0.weight"},
    "swin_transformer": {"swin_tiny_patch4_window7_224": "patch_embed.proj.weight"},
    "swin_transformer_v2": {"swinv2_tiny_window8_256": "patch_embed.proj.weight"},
    "swin_transformer_v2_cr": {"swinv2_cr_tiny_224": "patch_embed.proj.weight"},
    "tiny_vit": {"tiny_vit_5m_224": "patch_embed.conv1.conv.weight"},
    "tnt": {"tnt_s_patch16_224": "pixel_embed.proj.weight"},
    "tresnet": {"tresnet_m": "body.conv1.conv.weight"},
    "twins": {"twins_svt_small": "patch_embeds.0.proj.weight"},
    "vgg": {"vgg11": "features.0.weight"},
    "visformer": {"visformer_tiny": "stem.0.weight"},
    "vision_transformer": {"test_vit": "patch_embed.proj.weight"},
    "vision_transformer_hybrid": {"vit_tiny_r_s16_p8_224": "patch_embed.backbone.conv.weight"},
    "vision_transformer_relpos": {"test_vit_relpos": "patch_embed.proj.weight"},
    "vision_transformer_sam": {"samvit_base_patch16_224": "patch_embed.proj.weight"},
    "vitamin": {"vitamin_small_224": "patch_embed.backbone.stem.conv1.weight"},
    "volo": {"volo_d1_224": "patch_embed.conv.0.weight"},
    "vovnet": {"ese_vovnet19b_slim_dw": "stem.0.conv.weight"},
    "xception": {"legacy_xception": "conv1.weight"},
    "xception_aligned": {"xception41p": "stem.0.conv.weight"},
    "xcit": {"xcit_nano_12_p8_224": "patch_embed.proj.0.0.weight"},
}

# Arguments that make a model smaller where dropping repeated blocks does not, or let it run without values.
SMALLER: dict[str, dict[str, Any]] = {
    "crossvit_9_240": {"depth": ([1, 1, 0],)},
    "densenet121": {"block_config": (1, 1, 1, 1)},
    "efficientvit_m2": {"depth": (1, 1, 1)},
}
WHOLE = frozenset(
    {
        "efficientvim_m1",
        "efficientvit_m2",
        "ese_vovnet19b_slim_dw",
        "hgnet_tiny",
        "hgnetv2_b0",
        "twins_svt_small",
        "crossvit_9_240",
    }
)  # their code counts or concatenates what blocks give


def cases() -> list[Case]:
    """All rows."""
    return [
        Case(
            id=f"timm:{name}",
            family=f"timm.{module}",
            kind="image",
            make=functools.partial(_make, name),
            arguments=functools.partial(_arguments, name),
            layers=layers_of(weights),
            whole=name in WHOLE,
        )
        for module, models in TABLE.items()
        for name, weights in models.items()
    ]


def _make(name: str) -> nn.Module:
    return timm.create_model(name, **SMALLER.get(name, {})).train()


def _arguments(name: str) -> Arguments:
    channels, *size = timm.get_pretrained_cfg(name).input_size
    return (image(tuple(size), channels),), {}
