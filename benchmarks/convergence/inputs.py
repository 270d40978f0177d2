"""From pixels to what a network is fed: the scale, whitening, and sets with planted contrast and noise."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from tract_fx.ops.gram import gram
from tract_fx.ops.patches import PatchGeometry
from tract_fx.tools.images.arrays import channel_statistics

__all__ = ["CONTRASTS", "INPUTS", "Inputs", "contrast_groups", "inverse_root"]

CONTRASTS = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Factors of planted contrast; each image has one of them."""

ZCA_EPSILON = 0.1
LOCAL_SIZES = (3, 9)
LOCAL_CHUNK = 500
PLANTED_SEED = 20_241


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Images of one split as they are stored, and what is left to do with a batch.

    Attributes:
        images: `(images, channels, size, size)`, uint8 pixels or what has been made of them.
        finish: from stored images, whole or a batch, to what the network reads.
    """

    images: Tensor
    finish: Callable[[Tensor], Tensor]


def standardised(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Mean 0 and variance 1 in each channel of the training images."""
    del noise
    finish = _affine(*channel_statistics(train))
    return Inputs(train, finish), Inputs(test, finish)


def unit(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Pixels from 0 to 1."""
    del noise
    finish = _affine(0.0, 255.0)
    return Inputs(train, finish), Inputs(test, finish)


def symmetric(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Pixels from -1 to 1."""
    del noise
    finish = _affine(127.5, 127.5)
    return Inputs(train, finish), Inputs(test, finish)


def raw(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Pixels from 0 to 255."""
    del noise
    finish = _affine(0.0, 1.0)
    return Inputs(train, finish), Inputs(test, finish)


def zca(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Standardised, then whitened over the whole image by the covariance of the training images."""
    del noise
    finish = _affine(*channel_statistics(train))
    flat = finish(train).flatten(1)
    mean = flat.mean(0)
    centred = flat - mean
    whitening = inverse_root((centred.T @ centred / len(flat)).double(), ZCA_EPSILON).float()

    def whitened(images: Tensor) -> Inputs:
        return Inputs(((finish(images).flatten(1) - mean) @ whitening).view(images.shape), torch.Tensor.float)

    return whitened(train), whitened(test)


def local_zca(size: int, train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Standardised, then whitened by one small filter: each pixel as ZCA of the patch around it would have it.

    The filter is fixed and the same everywhere, so that it fits images of every size, unlike `zca`'s matrix.

    Args:
        size: side of the patch, odd.
        train: uint8 training images, whose patches give the covariance.
        test: uint8 test images.
        noise: not used.
    """
    del noise
    finish = _affine(*channel_statistics(train))
    margin, channels = size // 2, train.shape[1]
    kernel = (size, size)
    inside = (1, 1), (0, 0), (1, 1)
    total, rows = 0.0, 0
    for images in train.split(LOCAL_CHUNK):
        total = total + gram(finish(images), PatchGeometry(kernel, *inside))[0]
        rows += len(images) * (train.shape[-2] - 2 * margin) * (train.shape[-1] - 2 * margin)
    root = inverse_root(total / rows, ZCA_EPSILON).view(channels, size, size, channels, *kernel)
    filters = root[:, margin, margin].float()

    def whitened(images: Tensor) -> Inputs:
        padded = torch.nn.functional.pad(finish(images), (margin,) * 4, mode="reflect")
        return Inputs(torch.nn.functional.conv2d(padded, filters), torch.Tensor.float)

    return whitened(train), whitened(test)


def planted_contrast(train: Tensor, test: Tensor, noise: float) -> tuple[Inputs, Inputs]:
    """Each image's deviations from its mean times one of `CONTRASTS`, then noise that stays the same in every epoch.

    Standardised before, so that a contrast of 1 without noise is the ordinary image; not standardised after, because
    low contrast is what is planted.
    """
    finish = _affine(*channel_statistics(train))
    return tuple(
        Inputs(_planted(finish(images), noise, PLANTED_SEED + split), torch.Tensor.float)
        for split, images in enumerate((train, test))
    )


def contrast_groups(count: int, split: int) -> Tensor:
    """Which of `CONTRASTS` each image of a split (0 training, 1 test) has: int64 `(count,)`."""
    return torch.randint(0, len(CONTRASTS), (count,), generator=torch.Generator().manual_seed(PLANTED_SEED + split))


INPUTS: dict[str, Callable[[Tensor, Tensor, float], tuple[Inputs, Inputs]]] = {
    "standardised": standardised,
    "symmetric": symmetric,
    "unit": unit,
    "raw": raw,
    "zca": zca,
    **{f"zca{size}": functools.partial(local_zca, size) for size in LOCAL_SIZES},
    "contrast": planted_contrast,
}


def inverse_root(covariance: Tensor, lam: float) -> Tensor:
    """``P = (C + lam I)^-1/2``, symmetric: the matrix that whitens but for what ``lam`` leaves."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors / (values.clamp(min=0) + lam).sqrt()) @ vectors.T


def _planted(images: Tensor, noise: float, seed: int) -> Tensor:
    contrast = torch.tensor(CONTRASTS)[contrast_groups(len(images), seed - PLANTED_SEED)].to(images.device)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    generator = torch.Generator().manual_seed(seed + 1_000)
    disturbance = torch.randn(images.shape, generator=generator).to(images.device)
    return mean + contrast[:, None, None, None] * (images - mean) + noise * disturbance


def _affine(mean: Tensor | float, std: Tensor | float) -> Callable[[Tensor], Tensor]:
    return lambda images: (images.float() - mean) / std
