"""Batches of images from a folder, as a model expects them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tract_fx.tools.errors import ModelError
from tract_fx.tools.images.decoding import decode
from tract_fx.tools.images.sources import IMAGE_SUFFIXES, ImageSource, layout, open_source
from tract_fx.tools.models.loaded import LoadedModel

__all__ = ["image_batches"]

Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]


def image_batches(
    path: Path,
    model: LoadedModel,
    *,
    size: int | None,
    batch_size: int,
    batches: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    seed: int,
) -> list[Batch]:
    """Randomly drawn images, resized, scaled to 0..1 and standardised, with labels where there are class folders.

    Args:
        path: folder or tar archive.
        model: what it expects is the default of the next arguments.
        size: side in pixels.
        batch_size: images in a batch; the last batch may have fewer.
        batches: at most this many are drawn.
        mean: subtracted from each channel.
        std: each channel is divided by it.
        seed: of the choice.

    Raises:
        ImageError: when there is nothing to read at ``path``.
        ModelError: when there are no images, or the model takes none.
    """
    channels, height, width = _expected(model, size)
    own_mean, own_std = model.normalisation or ((0.0,), (1.0,))
    mean, std = _per_channel("--mean", mean or own_mean, channels), _per_channel("--std", std or own_std, channels)
    images, labels = _decoded(open_source(path), path, max(height, width), batch_size * batches, seed)
    if height != width:
        images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    if channels == 1:
        images = images.mean(1, keepdim=True)
    images = (images - mean) / std
    if labels is None:
        return list(images.split(batch_size))
    return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))


def _expected(model: LoadedModel, size: int | None) -> tuple[int, int, int]:
    """Channels, height and width."""
    shape = model.shape or ((3, size, size) if size else None)
    if shape is None:
        raise ModelError(f"{model.name}: its configuration does not say how large images are; give --image-size")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ModelError(f"{model.name}: takes {'x'.join(map(str, shape))}, not images; use tract_fx.probe from Python")
    return (shape[0], size, size) if size else shape


def _per_channel(option: str, values: Sequence[float], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        raise ModelError(f"{option}: has {len(values)} numbers, but the model takes images of {channels} channels")
    return torch.tensor(values).view(1, -1, 1, 1)


def _decoded(source: ImageSource, path: Path, size: int, limit: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Pixels float32 ``(images, 3, size, size)`` in 0..1, and labels where every image is in a class folder."""
    label_of = _labels(source.names())
    names = sorted(label_of)
    random.Random(seed).shuffle(names)
    decoded = {name: found[0] for name, data in source.read(names[:limit]) if (found := decode(data, size)) is not None}
    chosen = [name for name in names[:limit] if name in decoded]
    if not chosen:
        raise ModelError(f"--data {path}: holds no image that can be read")
    pixels = torch.from_numpy(np.stack([decoded[name] for name in chosen])).float() / 255
    labels = [label_of[name] for name in chosen]
    return pixels, None if None in labels else torch.tensor(labels)


def _labels(names: Sequence[str]) -> dict[str, int | None]:
    """Names of image files of the training part, each with the number of its class folder, if there are any."""
    entries = [entry for entry in layout(names) if not entry.is_test]
    classes = sorted({entry.label for entry in entries})
    if len(classes) > 1:
        return {entry.name: classes.index(entry.label) for entry in entries}
    return dict.fromkeys(_images(names))


def _images(names: Sequence[str]) -> Iterator[str]:
    paths = map(PurePosixPath, names)
    return (str(path) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
