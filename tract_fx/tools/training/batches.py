"""From images to batches, and to how many of them a network classifies right."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tract_fx.tools.images.arrays import TrainingData
from tract_fx.tools.training.loop import TrainingLoop, class_scores

__all__ = ["classified_right", "epoch_seed", "shuffled"]

EVALUATION_BATCH = 512


def epoch_seed(seed: int, epoch: int) -> int:
    """Of everything random in an epoch of a training."""
    return seed * 1_000_003 + epoch


def shuffled(data: TrainingData, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The full batches of one epoch, in an order that depends on the seed and the epoch only.

    The incomplete last batch is dropped: another shape would be compiled for it.
    """
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.randperm(len(data.train_images), generator=generator).to(data.train_images.device)
    for chosen in order.split(batch_size):
        if len(chosen) == batch_size:
            yield data.finish(data.train_images[chosen]), data.train_labels[chosen]


@torch.no_grad()
def classified_right(loop: TrainingLoop, data: TrainingData, batch_size: int = EVALUATION_BATCH) -> Tensor:
    """Whether each test image is classified right: bool `(test images,)`. Leaves the model in evaluation mode.

    The model itself runs, not a compiled form, so that no second graph is compiled for it.
    """
    loop.model.eval()
    right = []
    parts = zip(data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True)
    for images, labels in parts:
        with loop.autocast():
            scores = class_scores(loop.model(data.finish(images)))
        right.append(scores.argmax(dim=1) == labels)
    return torch.cat(right)
