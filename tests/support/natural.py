"""Data with what TrAct cares about in real ones.

Photographs have a 1/f spectrum and colours that are mostly brightness; in tables there are columns in other units.
"""

import torch
from torch import Tensor

# Of brightness, blue against yellow and green against magenta, about as in photographs.
COLOUR_SPREAD = (1.0, 0.35, 0.15)


def natural_images(count: int, size: int, channels: int = 3, seed: int = 0) -> Tensor:
    """``(count, channels, size, size)`` with values in 0..255, as floats."""
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.fft.fftfreq(size)
    radius = (frequencies[:, None] ** 2 + frequencies**2).sqrt().clamp(min=0.5 / size)
    noise = torch.fft.fft2(torch.randn(count, channels, size, size, generator=generator))
    smooth = torch.fft.ifft2(noise / radius).real
    smooth = smooth / smooth.std()
    if channels == 3:
        axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
        axes = axes / axes.norm(dim=1, keepdim=True)
        smooth = torch.einsum("bchw,c,cd->bdhw", smooth, torch.tensor(COLOUR_SPREAD), axes) * 3**0.5
    return (120 + 55 * smooth).clamp(0, 255).round()


def standardised(images: Tensor) -> Tensor:
    """Each channel with mean 0 and standard deviation 1."""
    dims = (0, *range(2, images.dim()))
    return (images - images.mean(dims, keepdim=True)) / images.std(dims, keepdim=True)


def with_times(rows: int = 32) -> Tensor:
    """Eight columns of noise, and one of seconds since 1970: float64 raises a small ``lam`` for these."""
    return torch.cat([torch.randn(rows, 8), 1.7e9 + 3e7 * torch.rand(rows, 1)], 1)
