"""Crops of scikit-learn's two photographs, in the ranges of pixels that networks are given."""

import functools
import warnings

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

RANGES = ("standardised", "-1..1", "0..1", "0..255")


@functools.cache
def _photographs() -> tuple[Tensor, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = load_sample_images().images
    return tuple(torch.tensor(image).permute(2, 0, 1).float() for image in images)


def photographs(count: int, size: int, pixels: str = "standardised", seed: int = 0) -> Tensor:
    """``(count, 3, size, size)``, crops from both photographs in turn, in one of :data:`RANGES`."""
    generator = torch.Generator().manual_seed(seed)
    images = _photographs()
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in image.shape[1:])
        crops.append(image[:, top : top + size, left : left + size])
    return in_range(torch.stack(crops), pixels)


def in_range(images: Tensor, pixels: str) -> Tensor:
    """Images of 0..255 in one of :data:`RANGES`."""
    if pixels == "standardised":
        deviation, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
        return (images - mean) / deviation
    return {"-1..1": images / 127.5 - 1, "0..1": images / 255, "0..255": images}[pixels]
