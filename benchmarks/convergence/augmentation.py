"""How training images are varied: on the device, from a generator, in whatever dtype they have."""

from __future__ import annotations

import dataclasses

import torch
from torch import Generator, Tensor

__all__ = ["AUGMENTATIONS", "Augmentation", "crop_flip", "erase", "mix", "randaugment"]

PADDING = 4
MIXUP_ALPHA = 0.8
ERASED_SHARE = 0.25
RANDAUGMENT_GROUP = 16
"""RandAugment draws its operations once for so many images, because they run on all of them at a time."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a batch: RandAugment on pixels, then crop and flip, then erasing and mixing."""

    crop_flip: bool = True
    randaugment: bool = False
    erasing: bool = False
    mixup: bool = False


AUGMENTATIONS = {
    "none": Augmentation(crop_flip=False),
    "crop-flip": Augmentation(),
    "randaugment": Augmentation(randaugment=True),
    "erasing": Augmentation(erasing=True),
    "mixup": Augmentation(mixup=True),
    "all": Augmentation(randaugment=True, erasing=True, mixup=True),
}


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """Shift every image by up to 4 pixels (zeros come in), and mirror every second one, by chance."""
    count, size = len(images), images.shape[-1]
    shifts = torch.randint(0, 2 * PADDING + 1, (2, count), generator=generator).to(images.device)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    padded = torch.nn.functional.pad(images, (PADDING,) * 4)
    line = torch.arange(size, device=images.device)
    rows = shifts[0][:, None] + line
    columns = shifts[1][:, None] + torch.where(mirrored[:, None], line.flip(0), line)
    which = torch.arange(count, device=images.device)[:, None, None]
    # Indices around a slice put their dimensions first.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def randaugment(images: Tensor, generator: Generator) -> Tensor:
    """Two of RandAugment's operations at magnitude 9 on uint8 images."""
    from torchvision.transforms.v2 import RandAugment

    operations = RandAugment(num_ops=2, magnitude=9)
    # torchvision draws from the global generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(0, 2**31, (), generator=generator)))
        return torch.cat([operations(part) for part in images.split(RANDAUGMENT_GROUP)])


def erase(images: Tensor, generator: Generator) -> Tensor:
    """Zeros in a random square with a side of a quarter to a half of the image, in a quarter of the images."""
    count, size = len(images), images.shape[-1]
    side = torch.randint(size // 4, size // 2 + 1, (count, 1), generator=generator)
    side = torch.where(torch.rand(count, 1, generator=generator) < ERASED_SHARE, side, 0)
    corner = (torch.rand(2, count, 1, generator=generator) * (size + 1 - side)).long()
    line = torch.arange(size)
    rows, columns = ((line >= start) & (line < start + side) for start in corner)
    erased = (rows[:, :, None] & columns[:, None, :]).to(images.device)
    return images.masked_fill(erased[:, None], 0)


def mix(images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412): the batch and its reverse, one share for all, drawn from a Beta distribution.

    Args:
        images: float `(batch, channels, size, size)`.
        targets: `(batch, classes)`.
        generator: where the share comes from.
    """
    # torch.distributions take no generator; a Beta variate is a ratio of Gamma variates.
    gammas = torch._standard_gamma(torch.full((2,), MIXUP_ALPHA), generator=generator)
    share = (gammas[0] / gammas.sum()).item()
    return tuple(share * part + (1 - share) * part.flip(0) for part in (images, targets))
