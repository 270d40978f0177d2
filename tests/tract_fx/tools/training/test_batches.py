import dataclasses

import pytest
import torch

from tract_fx.tools.images.arrays import TrainingData, standardised
from tract_fx.tools.training.batches import classified_right, shuffled
from tract_fx.tools.training.loop import TrainingLoop


@pytest.fixture
def data(image_set) -> TrainingData:
    return standardised(image_set, torch.device("cpu"))


def test_batches_are_full_distinct_and_repeatable(data):
    marked = dataclasses.replace(data, train_labels=torch.arange(40), finish=lambda images: 2 * images)
    first, again = (list(shuffled(marked, 16, seed=5, epoch=1)) for _ in range(2))
    assert [len(labels) for _, labels in first] == [16, 16]
    assert len(torch.cat([labels for _, labels in first]).unique()) == 32
    for (images, labels), (other_images, other_labels) in zip(first, again, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
        assert torch.equal(images, 2 * data.train_images[labels])


def test_order_depends_on_epoch_and_seed(data):
    orders = [
        torch.cat([images for images, _ in shuffled(data, 16, seed, epoch)]) for seed, epoch in ((5, 1), (5, 2), (6, 1))
    ]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.parametrize("batch_size", [3, 512])
def test_classified_right_compares_the_best_score_with_the_label(data, batch_size):
    class Brightness(torch.nn.Linear):
        """Scores that depend on the image; in training mode they are wrong."""

        def forward(self, images):
            bright = images.mean((1, 2, 3)) > 0
            return torch.stack([~bright, bright], 1).float() * (-1 if self.training else 1)

    loop = TrainingLoop(Brightness(1, 1), [], total=1)
    found = classified_right(loop, data, batch_size)
    assert found.tolist() == ((data.test_images.mean((1, 2, 3)) > 0) == data.test_labels.bool()).tolist()
