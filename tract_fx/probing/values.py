"""The values that a layer is fed with, channel by channel and sample by sample, summed up over batches in float64.

Layout: inputs are ``(batch, channels, *spatial)``; of a product ``(rows, features)``, whose features then are the channels.
A *sample* is one of the loader's examples: the frames of a video that a model folds into its batch belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ValueStatistics"]

# Elements that are copied to float64 at once.
CHUNK_ELEMENTS = 2**22

# A sample whose standard deviation is below this share of that of the batch is nearly constant: of pixels in 0..255 it
# differs by about half a grey level from its mean.
NEAR_CONSTANT = 0.01

# Up to so many channels of an image, products of pairs of channels are summed.
MOST_CROSSED = 512


class ValueStatistics:
    """Sums over everything seen; memory does not grow with the number of batches.

    Attributes:
        count: values seen of each channel.
        total, square: their sum and the sum of their squares, ``(channels,)``.
        minimum, maximum: ``(channels,)``.
        zero_one: which features of a product had no other values than 0 and 1, ``(channels,)``; of images none.
        cross: sums of products of two channels at the same place, ``(channels, channels)``; None for products and for too
            many channels.
        samples, constant, near_constant: how many samples there were, had one value in each channel, or nearly so.
        variance: sum over the samples that are not nearly constant of the variance within a sample.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = self.square = self.minimum = self.maximum = torch.zeros(0, dtype=torch.float64)
        self.zero_one = torch.zeros(0, dtype=torch.bool)
        self.cross: Tensor | None = None
        self.samples = self.constant = self.near_constant = 0
        self.variance = 0.0

    def add(self, input: Tensor, samples: int) -> None:
        """Take in a batch of finite values.

        Args:
            input: what the layer saw.
            samples: number of the loader's examples in it.
        """
        if input.numel() == 0:
            return
        per_sample = len(input) // samples if samples and len(input) % samples == 0 else 1
        by_sample = input.unflatten(0, (-1, per_sample)).transpose(1, 2).flatten(2)  # (samples, channels, values)
        if self.count == 0:
            self._start(input)
        before = self.count, self.total.clone(), self.square.clone()
        parts = by_sample.split(max(1, CHUNK_ELEMENTS // by_sample[0].numel()))
        variances = torch.cat([self._add(part.to(torch.float64), is_image=input.dim() > 2) for part in parts])
        near = variances <= NEAR_CONSTANT**2 * self._variance_since(*before)
        self.near_constant += int(near.sum())
        self.variance += variances[~near].sum().item()

    @property
    def mean(self) -> Tensor:
        """Of each channel."""
        return self.total / self.count

    @property
    def std(self) -> Tensor:
        """Of each channel around its own mean."""
        return (self.square / self.count - self.mean.square()).clamp(min=0.0).sqrt()

    @property
    def contrast(self) -> float | None:
        """Root mean square over samples of the standard deviation within one; nearly constant samples do not count."""
        textured = self.samples - self.near_constant
        return (self.variance / textured) ** 0.5 if textured else None

    def _start(self, input: Tensor) -> None:
        channels = input.shape[1]
        self.total = input.new_zeros(channels, dtype=torch.float64)
        self.square = torch.zeros_like(self.total)
        self.minimum = torch.full_like(self.total, torch.inf)
        self.maximum = torch.full_like(self.total, -torch.inf)
        self.zero_one = torch.full_like(self.total, input.dim() == 2, dtype=torch.bool)
        if input.dim() > 2 and channels <= MOST_CROSSED:
            self.cross = input.new_zeros(channels, channels, dtype=torch.float64)

    def _variance_since(self, count: int, total: Tensor, square: Tensor) -> Tensor:
        """Of what was added since, around the mean of each channel."""
        added = self.count - count
        mean = (self.total - total) / added
        return ((self.square - square) / added - mean.square()).clamp(min=0.0).mean()

    def _add(self, part: Tensor, is_image: bool) -> Tensor:
        """Add some samples; returns the variance within each."""
        self.count += part.shape[0] * part.shape[2]
        self.total += part.sum((0, 2))
        self.square += part.square().sum((0, 2))
        lowest, highest = part.amin(2), part.amax(2)
        self.minimum = torch.minimum(self.minimum, lowest.amin(0))
        self.maximum = torch.maximum(self.maximum, highest.amax(0))
        if bool(self.zero_one.any()):
            self.zero_one &= ((part == 0) | (part == 1)).all(2).all(0)
        if self.cross is not None:
            channels = part.transpose(0, 1).flatten(1)
            self.cross += channels @ channels.T
        # The features of a product differ from each other as the pixels of an image do.
        is_image = is_image and part.shape[2] > 1
        variance = part.var(2, correction=0).mean(1) if is_image else part.flatten(1).var(1, correction=0)
        same = (lowest == highest).all(1) if is_image else lowest.amin(1) == highest.amax(1)
        self.samples += len(part)
        self.constant += int(same.sum())
        # Exactly zero where it is zero, whatever the rounding of a mean.
        return torch.where(same, 0.0, variance)
