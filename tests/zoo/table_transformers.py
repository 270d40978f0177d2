"""transformers: models for images, video, audio, time series and text, with tiny random configurations."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.qwen2_vl import modeling_qwen2_vl

from .case import Arguments, Case, image, layers_of

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "vocab_size": 50,
}
SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,  # masks are drawn with numpy, outside of any graph
    "layerdrop": 0.0,
}
SERIES = {
    "prediction_length": 4,
    "context_length": 12,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 1,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
# With older ones the model makes masks that its own code refuses, with torch.compile(backend="eager") too.
AUTOFORMER_NEEDS_TORCH = (2, 12)
SMALL_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}

EMBEDS = "embeddings.patch_embeddings.projection.weight"
SPEECH_STEM = "feature_extractor.conv_layers.0.conv.weight"
VALUES = "encoder.value_embedding.value_projection.weight decoder.value_embedding.value_projection.weight"

REQUIRES_GRAD = "the model sets requires_grad on the signal, which breaks the graph"
BRANCHES = "the model branches on values"


@dataclasses.dataclass(frozen=True)
class Row:
    """A model class without its suffix, the sizes of its configuration, and what is expected of it."""

    model: str
    sizes: dict[str, Any]
    weights: str = ""
    config: str | None = None  # of the model's name, unless given
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    meets: str | None = None
    real: str | None = None
    known: str | None = None
    needs_torch: tuple[int, ...] = ()


def _pixels(size: int = 32, channels: int = 3) -> dict[str, Any]:
    return {"pixel_values": lambda: image(size, channels)}


def _frames(count: int = 4, size: int = 32) -> dict[str, Any]:
    return {"pixel_values": lambda: torch.randn(1, count, 3, size, size)}


def _tokens(**names: int) -> dict[str, Any]:
    return {name: functools.partial(torch.ones, 2, length, dtype=torch.long) for name, length in names.items()}


def _normal(**shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: functools.partial(torch.randn, *shape) for name, shape in shapes.items()}


def _series(time_features: int = 1) -> dict[str, Any]:
    return _normal(
        past_values=(2, 15),
        past_time_features=(2, 15, time_features),
        future_values=(2, 4),
        future_time_features=(2, 4, time_features),
    ) | {"past_observed_mask": functools.partial(torch.ones, 2, 15)}


IMAGES = [
    Row("ViTModel", VIT, EMBEDS, inputs=_pixels()),
    Row("DeiTModel", VIT, EMBEDS, inputs=_pixels()),
    Row("BeitModel", VIT | {"use_relative_position_bias": True}, EMBEDS, inputs=_pixels()),
    Row("Dinov2Model", VIT, EMBEDS, inputs=_pixels()),
    Row("DINOv3ViTModel", VIT, "embeddings.patch_embeddings.weight", inputs=_pixels()),
    Row("ViTMAEModel", VIT, EMBEDS, inputs=_pixels()),
    Row("YolosModel", VIT | {"image_size": [32, 32], "num_detection_tokens": 2}, EMBEDS, inputs=_pixels()),
    Row("DPTModel", VIT | {"is_hybrid": False}, EMBEDS, inputs=_pixels()),
    Row(
        "SwinModel",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4},
        EMBEDS,
        inputs=_pixels(),
    ),
    Row(
        "Swinv2Model",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4},
        EMBEDS,
        inputs=_pixels(),
    ),
    Row(
        "Swin2SRModel",
        {"image_size": 32, "patch_size": 1, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4},
        "first_convolution.weight",
        inputs=_pixels(),
    ),
    Row(
        "HieraModel",
        {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "query_stride": [2, 2]}
        | {"num_query_pool": 1, "masked_unit_size": [2, 2], "masked_unit_attention": [True, False]},
        EMBEDS,
        inputs=_pixels(),
    ),
    Row(
        "FocalNetModel",
        {"image_size": 32, "embed_dim": 8, "depths": [1], "focal_levels": [1], "focal_windows": [3]}
        | {"hidden_sizes": [8]},
        EMBEDS,
        inputs=_pixels(),
    ),
    Row(
        "ConvNextModel",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "embeddings.patch_embeddings.weight",
        inputs=_pixels(),
    ),
    Row("ResNetModel", SMALL_RESNET, "embedder.embedder.convolution.weight", inputs=_pixels()),
    Row("RegNetModel", SMALL_RESNET | {"groups_width": 8}, "embedder.embedder.convolution.weight", inputs=_pixels()),
    Row("BitModel", SMALL_RESNET | {"num_groups": 2}, "embedder.convolution.weight", inputs=_pixels()),
    Row("MobileNetV1Model", {"depth_multiplier": 0.25}, "conv_stem.convolution.weight", inputs=_pixels()),
    Row("MobileNetV2Model", {"depth_multiplier": 0.25}, "conv_stem.first_conv.convolution.weight", inputs=_pixels()),
    Row(
        "MobileViTModel",
        {"image_size": 32, "hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 4, 8, 8, 8, 8]},
        "conv_stem.convolution.weight",
        inputs=_pixels(64),
    ),
    Row(
        "EfficientNetModel",
        {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320, "image_size": 32},
        "embeddings.convolution.weight",
        inputs=_pixels(),
    ),
    Row(
        "SegformerModel",
        {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2]}
        | {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]},
        "stages.0.patch_embeddings.proj.weight",
        inputs=_pixels(),
    ),
    Row(
        "PvtModel",
        {"image_size": 32, "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16]}
        | {"sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "strides": [4, 2]}
        | {"num_attention_heads": [1, 2], "mlp_ratios": [2, 2]},
        "encoder.patch_embeddings.0.projection.weight",
        inputs=_pixels(),
    ),
    Row(
        "PoolFormerModel",
        {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3]}
        | {"strides": [4, 2], "padding": [2, 1]},
        "encoder.patch_embeddings.0.projection.weight",
        inputs=_pixels(),
    ),
    Row(
        "SwiftFormerModel",
        {"embed_dims": [8, 16], "depths": [1, 1], "downsamples": [True, True], "drop_path_rate": 0.0},
        "patch_embed.patch_embedding.0.weight",
        inputs=_pixels(),
    ),
    Row(
        "LevitModel",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1]}
        | {"key_dim": [8, 8, 8], "mlp_ratio": [2, 2, 2], "drop_path_rate": 0},
        "patch_embeddings.embedding_layer_1.convolution.weight",
        inputs=_pixels(64),
    ),
    Row(
        "CvtModel",
        {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
        "encoder.stages.0.embedding.convolution_embeddings.projection.weight",
        inputs=_pixels(),
    ),
    Row(
        "SuperPointForKeypointDetection",
        {"encoder_hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 8, "descriptor_decoder_dim": 8},
        "encoder.conv_blocks.0.conv_a.weight",
        inputs=_pixels(),
        config="SuperPoint",
        real="the number of key points depends on values",
    ),
    Row(
        "SamVisionModel",
        VIT | {"output_channels": 8, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 32},
        "vision_encoder.patch_embed.projection.weight",
        inputs=_pixels(),
        config="SamVision",
    ),
    # All of its ResNet is frozen, since the names that are spared do not occur in it.
    Row(
        "DetrModel",
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 3}
        | {"backbone_config": transformers.ResNetConfig(**SMALL_RESNET, out_features=["stage2"])},
        "input_projection.weight",
        inputs=_pixels(64),
        real=BRANCHES,
    ),
    Row(
        "PerceiverForImageClassificationLearned",
        {"num_latents": 4, "d_latents": 16, "d_model": 512, "num_blocks": 1, "num_self_attends_per_block": 1}
        | {"num_self_attention_heads": 2, "num_cross_attention_heads": 1, "image_size": 16, "num_labels": 3},
        "perceiver.input_preprocessor.convnet_1x1.weight",
        inputs=_pixels(16),
        config="Perceiver",
        real=BRANCHES,
    ),
    Row(
        "PerceiverForImageClassificationConvProcessing",
        {"num_latents": 4, "d_latents": 16, "d_model": 322, "num_blocks": 1, "num_self_attends_per_block": 1}
        | {"num_self_attention_heads": 2, "num_cross_attention_heads": 1, "num_labels": 3},
        "perceiver.input_preprocessor.convnet.conv.weight",
        inputs=_pixels(224),
        config="Perceiver",
        real=BRANCHES,
    ),
    Row(
        "Siglip2VisionModel",
        {k: v for k, v in VIT.items() if k != "image_size"} | {"num_patches": 16},
        "embeddings.patch_embedding.weight",
        inputs=_normal(pixel_values=(2, 16, 192))
        | {
            "pixel_attention_mask": lambda: torch.ones(2, 16, dtype=torch.long),
            "spatial_shapes": lambda: torch.tensor([[4, 4], [2, 6]]),
        },
        config="Siglip2Vision",
        real="positions are resampled to sizes that are values of a tensor",
    ),
]
IMAGES_AND_TEXT = [
    Row(
        "CLIPModel",
        {"text_config": TEXT | {"max_position_embeddings": 8}, "vision_config": VIT, "projection_dim": 8},
        "vision_model.embeddings.patch_embedding.weight",
        inputs=_pixels() | _tokens(input_ids=6),
    ),
    Row(
        "ViltModel",
        VIT | TEXT,
        EMBEDS,
        inputs=_pixels() | _tokens(input_ids=6),
        real=BRANCHES,
    ),
    Row(
        "LayoutLMv3Model",
        VIT | TEXT | {"input_size": 32, "coordinate_size": 6, "shape_size": 4},
        "patch_embed.proj.weight",
        inputs=_pixels() | _tokens(input_ids=6) | {"bbox": lambda: torch.ones(2, 6, 4, dtype=torch.long)},
    ),
]
VIDEOS = [
    Row("VideoMAEModel", VIT | {"num_frames": 4}, EMBEDS, inputs=_frames()),
    Row("VivitModel", VIT | {"num_frames": 4, "tubelet_size": [2, 8, 8]}, EMBEDS, inputs=_frames()),
    Row("TimesformerModel", VIT | {"num_frames": 4}, EMBEDS, inputs=_frames()),
    Row(
        "VJEPA2Model",
        {"patch_size": 8, "crop_size": 32, "frames_per_clip": 4, "hidden_size": 48, "num_attention_heads": 2}
        | {"num_hidden_layers": 1, "pred_hidden_size": 48, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
        "encoder.embeddings.patch_embeddings.proj.weight",
        inputs={"pixel_values_videos": lambda: torch.randn(1, 4, 3, 32, 32)},
        real="it reads the size of a mask from a tensor",
    ),
    Row(
        "Qwen2VisionTransformerPretrainedModel",
        {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 8},
        "patch_embed.proj.weight",
        inputs=_normal(hidden_states=(32, 384)) | {"grid_thw": lambda: torch.tensor([[1, 4, 8]])},
        config="Qwen2VLVision",
        real="the grid of patches is given by values of a tensor",
    ),
]
WAVEFORM = _normal(input_values=(2, 800))
AUDIO = [
    *(
        Row(f"{name}Model", SPEECH | more, SPEECH_STEM, inputs=WAVEFORM, real=REQUIRES_GRAD)
        for name, more in (
            ("Wav2Vec2", {}),
            ("Hubert", {}),
            ("WavLM", {}),
            ("UniSpeech", {}),
            ("SEW", {"squeeze_factor": 2}),
            ("Data2VecAudio", {"num_conv_pos_embeddings": 1}),
            ("Wav2Vec2Conformer", {"conv_depthwise_kernel_size": 3}),
        )
    ),
    Row(
        "ASTModel",
        {key: value for key, value in VIT.items() if key != "image_size"} | {"max_length": 24, "num_mel_bins": 16},
        EMBEDS,
        inputs=_normal(input_values=(2, 24, 16)),
    ),
    Row(
        "WhisperModel",
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 8}
        | {"max_source_positions": 20, "max_target_positions": 8, "vocab_size": 50, "pad_token_id": 0}
        | {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        "encoder.conv1.weight",
        inputs=_normal(input_features=(2, 8, 40)) | _tokens(decoder_input_ids=4),
    ),
    Row(
        "Speech2TextModel",
        {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 50}
        | {"conv_channels": 8, "input_feat_per_channel": 12, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
        "encoder.conv.conv_layers.0.weight",
        inputs=_normal(input_features=(2, 40, 12)) | _tokens(decoder_input_ids=4),
    ),
    Row(
        "EncodecModel",
        {"num_filters": 4, "hidden_size": 8, "codebook_size": 8, "codebook_dim": 8, "upsampling_ratios": [4, 2]}
        | {"num_lstm_layers": 1, "target_bandwidths": [24.0], "use_causal_conv": True},
        "encoder.layers.0.conv.parametrizations.weight.original0"
        "+encoder.layers.0.conv.parametrizations.weight.original1",
        inputs=_normal(input_values=(2, 1, 320)),
        real=BRANCHES,
        known="graph breaks hide that the entries of the codebook that the decoder sees are chosen by the encoder: they "
        "come in without a gradient, like data",
    ),
    Row(
        "DacModel",
        {"encoder_hidden_size": 8, "downsampling_ratios": [2, 2], "decoder_hidden_size": 16, "n_codebooks": 2}
        | {"codebook_size": 8, "codebook_dim": 4, "hidden_size": 32},
        "encoder.conv1.weight",
        inputs=_normal(input_values=(2, 1, 320)),
    ),
    # Both scale every feature of the data by a trainable number before anything multiplies it.
    Row(
        "ClapAudioModel",
        {"spec_size": 64, "patch_size": 4, "patch_stride": [4, 4], "num_mel_bins": 16, "window_size": 4}
        | {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16},
        inputs=_normal(input_features=(2, 1, 256, 16)),
        meets="batch_norm",
        config="ClapAudio",
    ),
    Row(
        "Wav2Vec2BertModel",
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
        | {"feature_projection_input_dim": 12, "mask_time_prob": 0.0, "layerdrop": 0.0},
        inputs=_normal(input_features=(2, 20, 12)),
        meets="layer_norm",
    ),
]
TIME_SERIES = [
    Row(
        "PatchTSTModel",
        {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16},
        "encoder.embedder.input_embedding.weight",
        inputs=_normal(past_values=(2, 32, 3)),
    ),
    Row(
        "PatchTSTForPrediction",
        {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "share_embedding": False},
        "model.encoder.embedder.input_embedding.0.weight model.encoder.embedder.input_embedding.1.weight",
        inputs=_normal(past_values=(2, 32, 2)),
        config="PatchTST",
    ),
    Row(
        "PatchTSMixerModel",
        {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16}
        | {"num_layers": 1},
        "encoder.patcher.weight",
        inputs=_normal(past_values=(2, 32, 3)),
    ),
    Row("TimeSeriesTransformerModel", SERIES, VALUES, inputs=_series()),
    Row("InformerModel", SERIES, VALUES, inputs=_series()),
    Row(
        "AutoformerModel",
        SERIES | {"moving_average": 3, "label_length": 2},
        VALUES,
        inputs=_series(),
        real=BRANCHES,
        needs_torch=AUTOFORMER_NEEDS_TORCH,
    ),
    Row(
        "TimesFmModel",
        {"patch_length": 8, "context_length": 32, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "freq_size": 3, "horizon_length": 8},
        "input_ff_layer.input_layer.weight input_ff_layer.residual_layer.weight",
        inputs=_normal(past_values=(2, 32))
        | {
            "past_values_padding": lambda: torch.zeros(2, 32, dtype=torch.long),
            "freq": lambda: torch.zeros(2, 1, dtype=torch.long),
        },
    ),
    # Returns, states and actions are three kinds of data, each with a layer of its own; time steps have a table.
    Row(
        "DecisionTransformerModel",
        {"state_dim": 5, "act_dim": 3, "hidden_size": 16, "n_layer": 1, "n_head": 2, "max_ep_len": 20},
        "embed_return.weight embed_state.weight embed_action.weight",
        inputs=_normal(states=(2, 4, 5), actions=(2, 4, 3), rewards=(2, 4, 1), returns_to_go=(2, 4, 1))
        | _tokens(timesteps=4),
    ),
]
LOOKS_UP = "embedding"
TEXTS = [
    Row("BertModel", TEXT, inputs=_tokens(input_ids=6), meets=LOOKS_UP),
    Row(
        "GPT2Model",
        {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50},
        inputs=_tokens(input_ids=6),
        meets=LOOKS_UP,
    ),
    Row(
        "T5Model",
        {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
        | {"decoder_start_token_id": 0},
        inputs=_tokens(input_ids=6, decoder_input_ids=4),
        meets=LOOKS_UP,
    ),
    Row(
        "CLIPTextModel",
        TEXT | {"max_position_embeddings": 8},
        inputs=_tokens(input_ids=6),
        meets=LOOKS_UP,
        config="CLIPText",
    ),
]
ROWS = {
    "image": IMAGES,
    "image and text": IMAGES_AND_TEXT,
    "video": VIDEOS,
    "audio": AUDIO,
    "time series": TIME_SERIES,
    "text": TEXTS,
}


def cases() -> list[Case]:
    """All rows."""
    return [
        Case(
            id=f"transformers:{row.model}",
            family=f"transformers, {kind}",
            kind=kind,
            make=functools.partial(_make, row),
            arguments=functools.partial(_arguments, row),
            layers=layers_of(row.weights),
            meets=row.meets,
            real=row.real,
            known=row.known,
            needs_torch=row.needs_torch,
        )
        for kind, rows in ROWS.items()
        for row in rows
    ]


def _make(row: Row) -> nn.Module:
    config = _find(f"{row.config or row.model.removesuffix('Model')}Config")(**row.sizes)
    return _find(row.model)(config).train()


def _find(name: str) -> Any:
    """A class of transformers; some models are only parts of exported ones."""
    return getattr(transformers, name, None) or getattr(modeling_qwen2_vl, name)


def _arguments(row: Row) -> Arguments:
    made: dict[str, Tensor] = {name: make() for name, make in row.inputs.items()}
    return (), made
