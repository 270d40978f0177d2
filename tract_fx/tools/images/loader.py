"""Batches of images from a folder, as a model expects them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tract_fx.tools.errors import ModelError
from tract_fx.tools.images.decoding import decode
from tract_fx.tools.images.sources import ImageSource, layout, left_out_notice, open_source
from tract_fx.tools.memory import check_memory
from tract_fx.tools.models.loaded import LoadedModel, Shape

__all__ = ["ImageBatches", "expected_shape", "image_batches"]

Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]


class ImageBatches(NamedTuple):
    """Batches for a model, and what was left out of the data, one sentence each."""

    batches: list[Batch]
    notices: tuple[str, ...]


def image_batches(
    path: Path,
    model: LoadedModel,
    *,
    shape: Shape | None,
    batch_size: int,
    batches: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
) -> ImageBatches:
    """Randomly drawn images, resized, scaled to 0..1 and standardised, with labels where there are class folders.

    Args:
        path: folder or tar archive.
        model: what it expects is the default of the next arguments.
        shape: of an image, ``(channels, height, width)`` or ``(height, width)``.
        batch_size: images in a batch; the last batch may have fewer, but not one alone, of which batch norm has no variance.
        batches: at most this many are drawn.
        mean: subtracted from each channel.
        std: each channel is divided by it.
        seed: of the choice.

    Raises:
        ImageError: when there is nothing to read at ``path``.
        ModelError: when there are no images, or too large ones, or the model takes none.
    """
    channels, height, width = expected_shape(model, shape)
    own_mean, own_std = model.normalisation or ((0.0,), (1.0,))
    mean, std = _per_channel("--mean", mean or own_mean, channels), _per_channel("--std", std or own_std, channels)
    source = open_source(path)
    images, labels = _decoded(source, path, max(height, width), batch_size * batches, seed)
    if height != width:
        images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    if channels == 1:
        images = images.mean(1, keepdim=True)
    images = (images - mean) / std
    if batch_size > 1 and len(images) > 1 and len(images) % batch_size == 1:
        images, labels = images[:-1], None if labels is None else labels[:-1]
    parts = images.split(batch_size)
    found = list(parts) if labels is None else list(zip(parts, labels.split(batch_size), strict=True))
    return ImageBatches(found, left_out_notice(source))


def expected_shape(model: LoadedModel, shape: Shape | None) -> tuple[int, int, int]:
    """Channels, height and width of the images for a model: its own, unless a shape was asked for.

    Raises:
        ModelError: when the model or the shape is not of images.
    """
    if shape is not None and (len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3))):
        raise ModelError(f"--input {'x'.join(map(str, shape))}: must be the shape of an image, such as 3x224x224")
    own = model.shape or ((3, *shape[-2:]) if shape else None)
    if own is None:
        raise ModelError(f"{model.name}: its configuration does not say how large images are; give --input 3x224x224")
    if len(own) != 3 or own[0] not in (1, 3):
        raise ModelError(f"{model.name}: takes {'x'.join(map(str, own))}, not images of one or three channels")
    channels, height, width = own if shape is None else (*own[: 3 - len(shape)], *shape)
    return channels, height, width


def _per_channel(option: str, values: Sequence[float], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        raise ModelError(f"{option}: has {len(values)} numbers, but the model takes images of {channels} channels")
    return torch.tensor(values).view(1, -1, 1, 1)


def _decoded(source: ImageSource, path: Path, size: int, limit: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Pixels float32 ``(images, 3, size, size)`` in 0..1, and labels where every image is in a class folder."""
    label_of = _labels(source.names())
    names = sorted(label_of)
    random.Random(seed).shuffle(names)
    count = min(limit, len(names))
    # Decoded, and as the numbers that the model sees.
    check_memory(count * 3 * size**2 * (1 + 4), f"--input 3x{size}x{size}: {count:,} images", ModelError)
    decoded = {name: found[0] for name, data in source.read(names[:limit]) if (found := decode(data, size)) is not None}
    chosen = [name for name in names[:limit] if name in decoded]
    if not chosen:
        reasons = "".join(f". {notice}" for notice in left_out_notice(source))
        raise ModelError(f"--data {path}: holds no image that can be read{reasons}")
    pixels = torch.from_numpy(np.stack([decoded[name] for name in chosen])).float() / 255
    labels = [label_of[name] for name in chosen]
    return pixels, None if None in labels else torch.tensor(labels)


def _labels(names: Sequence[str]) -> dict[str, int | None]:
    """Names of image files of the training part, each with the number of its class folder, if there are any."""
    entries = [entry for entry in layout(names) if not entry.is_test]
    classes = sorted({entry.label for entry in entries})
    if len(classes) > 1:
        return {entry.name: classes.index(entry.label) for entry in entries}
    return dict.fromkeys(names)
