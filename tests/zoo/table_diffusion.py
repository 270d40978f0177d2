"""Denoisers: the image has a first layer; the time step is a condition and has none."""

from __future__ import annotations

import torch

from . import diffusion
from .case import Arguments, Case, image, layers_of


def cases() -> list[Case]:
    """All rows."""
    rows = (
        ("UNet", diffusion.UNet, "stem.weight", _noisy_image),
        ("ConditionalTransformer", diffusion.ConditionalTransformer, "patches.weight", _latent),
    )
    return [
        Case(f"denoiser:{name}", "denoisers", "image and time step", make, arguments, layers_of(weights))
        for name, make, weights, arguments in rows
    ]


def _noisy_image() -> Arguments:
    return (image(16), torch.rand(2)), {}


def _latent() -> Arguments:
    return (image(16, channels=4), torch.rand(2), torch.tensor([1, 2])), {}
