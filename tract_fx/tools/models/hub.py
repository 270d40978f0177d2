"""Models of transformers, from a configuration: a model type, a local file or folder, or a name on the Hub.

Weights are random. Only a name on the Hub needs a network, for its configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tract_fx.options import closest
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.loaded import Arguments, LoadedModel, Shape, Task, built

__all__ = ["load_transformers"]

# Long enough for every layer to be met; nothing that is explained depends on it.
TOKENS = 128
DECODER_TOKENS = 8
# What a shape looks like, by the name of the input; the others are samples of a signal.
EXAMPLES = {"pixel_values": "3x224x224", "pixel_values_videos": "16x3x224x224", "input_features": "80x3000"}


def load_transformers(name: str, *, allocate: bool, task: Task | None = None) -> LoadedModel:
    """``AutoModel.from_config`` of a configuration, or its image classifier for a task, fed as it says.

    Raises:
        ModelError: when there is no such configuration, or no model for it.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModel, AutoModelForImageClassification

    spec = f"hf:{name}"
    config = _configuration(name, spec)
    kind = AutoModel if task is None else AutoModelForImageClassification
    if task is not None:
        if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise ModelError(f"{spec}: transformers has no image classifier of this model type")
        _set_task(config, task)
    try:
        model = built(lambda: kind.from_config(config), allocate=allocate).train()
    except Exception as error:
        raise ModelError(f"{spec}: cannot be made from its configuration: {_first_line(error)}") from error
    shape = _shape(model.main_input_name, config)
    return LoadedModel(spec, model, _arguments(spec, model.main_input_name, config, shape), shape)


def _set_task(config: Any, task: Task) -> None:
    channels, height, width = task.shape
    config.num_labels = task.classes
    if hasattr(config, "num_channels"):
        config.num_channels = channels
    if hasattr(config, "image_size"):
        config.image_size = height if height == width else (height, width)


def _configuration(name: str, spec: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    path = Path(name)
    try:
        if path.is_dir():
            return AutoConfig.from_pretrained(path)
        if path.is_file():
            fields = json.loads(path.read_text(encoding="utf-8"))
            return AutoConfig.for_model(fields.pop("model_type"), **fields)
        if name in CONFIG_MAPPING_NAMES:
            return AutoConfig.for_model(name)
    except KeyError as error:
        raise ModelError(f"{spec}: the configuration has no field {error}") from error
    except Exception as error:
        raise ModelError(f"{spec}: the configuration cannot be used: {_first_line(error)}") from error
    if name.endswith(".json") or name.startswith((".", "/", "~")):
        raise ModelError(f"{spec}: there is no such file or folder")
    if "/" not in name:
        near = _near(name, CONFIG_MAPPING_NAMES)
        raise ModelError(f"{spec}: is no model type of transformers, nor a name on the Hub (owner/name){near}")
    return _from_hub(name, spec)


def _near(name: str, configurations: Mapping[str, str]) -> str:
    """Model types that are abbreviated to a name, by their initials or in the name of their class; else alike ones."""
    short = name.lower().replace("-", "").replace("_", "")
    meant = [
        kind
        for kind, class_name in configurations.items()
        if short in ("".join(re.findall(r"\b[a-z]", kind)), class_name.removesuffix("Config").lower())
    ]
    return f"; did you mean {' or '.join(map(repr, meant[:3]))}?" if meant else closest(name, configurations)


def _from_hub(name: str, spec: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:
        raise ModelError(
            f"{spec}: its configuration could not be fetched from the Hub, which needs a network ({_first_line(error)}); "
            "without one, give a model type such as hf:vit, or a folder with a config.json"
        ) from error


def _shape(main_input: str, config: Any) -> Shape | None:
    """Of one example of the main input; None where the configuration does not say."""
    vision = getattr(config, "vision_config", None) or config
    if main_input == "pixel_values":
        size = getattr(vision, "image_size", None)
        if size is None:
            return None
        height, width = (size, size) if isinstance(size, int) else tuple(size)[:2]
        frames = getattr(vision, "num_frames", None)
        return (*((frames,) if frames else ()), getattr(vision, "num_channels", 3), height, width)
    if main_input == "input_ids":
        text = config.get_text_config()
        return (min(getattr(text, "max_position_embeddings", None) or TOKENS, TOKENS),)
    if main_input == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        return (config.num_mel_bins, 2 * config.max_source_positions)
    return None


def _arguments(spec: str, main_input: str, config: Any, own: Shape | None) -> Callable[[int, Shape | None], Arguments]:
    def make(batch: int, shape: Shape | None) -> Arguments:
        shape = shape or own
        if shape is None:
            example = EXAMPLES.get(main_input, "16000")
            raise ModelError(
                f"{spec}: its configuration does not give the shape of {main_input}; give --input, such as {example}"
            )
        text = config.get_text_config()
        if main_input != "input_ids":
            inputs = {main_input: torch.randn(batch, *shape)}
        else:
            inputs = {main_input: _tokens(text, batch, *shape)}
            if (vision := getattr(config, "vision_config", None)) is not None:
                images = _shape("pixel_values", vision)
                inputs |= {"pixel_values": torch.randn(batch, *images)} if images else {}
        if config.is_encoder_decoder and main_input in ("input_ids", "input_features"):
            inputs["decoder_input_ids"] = _tokens(text, batch, DECODER_TOKENS)
        return (), inputs

    return make


def _tokens(config: Any, *shape: int) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, shape)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
