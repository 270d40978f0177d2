"""The model is made for the images, and the images are made for the model."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.compare.subject import Subject, for_training, read_subject
from tract_fx.tools.errors import CompareError, ImageError, ModelError
from tract_fx.tools.images.arrays import ImageSet

CPU = torch.device("cpu")


def images(channels: int, size: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, channels, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % 2
    return ImageSet("noise", ("a", "b"), pixels[:20], labels[:20], pixels[20:], labels[20:])


def test_numbers_are_standardised_by_the_training_images() -> None:
    found = images(3)
    data = for_training(found, (3, 8, 8), CPU)
    train = found.train_images.double()
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(data.finish(data.train_images).double(), (train - mean) / std, rtol=0, atol=1e-6)
    expected = (found.test_images.double() - mean) / std
    torch.testing.assert_close(data.finish(data.test_images).double(), expected, rtol=0, atol=1e-6)


def test_gray_images_fill_three_channels_and_colour_becomes_gray() -> None:
    data = for_training(images(1), (3, 8, 8), CPU)
    made = data.finish(data.train_images)
    assert made.shape == (20, 3, 8, 8)
    assert torch.equal(made[:, 0], made[:, 2])
    gray = for_training(images(3), (1, 8, 8), CPU)
    assert gray.finish(gray.train_images).shape == (20, 1, 8, 8)


def test_a_shape_that_is_no_square() -> None:
    data = for_training(images(3, 16), (3, 16, 8), CPU)
    assert data.finish(data.test_images).shape == (10, 3, 16, 8)
    assert data.train_images.dtype == torch.uint8


@pytest.mark.parametrize("name", ["compared_models:net", "timm:test_resnet"])
def test_the_head_has_the_classes_of_the_images_and_seeds_differ(name: str) -> None:
    subject = Subject(name, images(3), (3, 8, 8) if name.startswith("c") else (3, 32, 32), "cpu")
    first, again, other = (subject.weights(seed) for seed in (3, 3, 4))
    key = next(iter(first))
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])
    assert list(first) == list(subject.model.state_dict())


def test_a_module_that_is_there_keeps_its_weights() -> None:
    """It is trained in place: every seed begins with what it had."""
    subject = Subject("compared_models:there", images(3), (3, 8, 8), "cpu")
    before = subject.model[0].weight.detach().clone()
    subject.model[0].weight.data.zero_()
    for seed in (0, 1):
        assert torch.equal(subject.weights(seed)["0.weight"], before)


@pytest.mark.parametrize(
    ("name", "shape", "error", "said"),
    [
        ("compared_models:ten", (3, 8, 8), CompareError, "returns 10 scores, but the images are of 2 classes"),
        ("compared_models:tokens", (3, 8, 8), CompareError, "returns 2x4x6x6, not a score for each class"),
        ("compared_models:net", (3, 9, 9), CompareError, "cannot be run on images of 3x9x9: RuntimeError: "),
        ("hf:bert", (3, 8, 8), ModelError, "transformers has no image classifier of this model type"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(name: str, shape: tuple[int, ...], error: type, said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        Subject(name, images(3), shape, "cpu")
    assert "\n" not in str(caught.value)


def test_a_wrong_name_is_found_before_the_images_are_read(tmp_path) -> None:
    settings = CompareSettings("compared_models:nett", tmp_path / "none", tmp_path)
    with pytest.raises(ModelError, match="did you mean 'net'"):
        read_subject(settings, "cpu", Console(file=io.StringIO()))


def test_one_class_is_refused(write_images, tmp_path) -> None:
    settings = CompareSettings("compared_models:net", write_images("a", count=3), tmp_path, input=(3, 8, 8))
    with pytest.raises(ImageError, match="needs readable images of two classes or more, found 1"):
        read_subject(settings, "cpu", Console(file=io.StringIO()))


def test_without_test_images_a_fixed_share_is_held_out(write_images, tmp_path) -> None:
    data = write_images("a", "b", count=10)
    found = [
        read_subject(
            CompareSettings("compared_models:net", data, tmp_path, input=(3, 8, 8), seed=seed),
            "cpu",
            Console(file=io.StringIO()),
        )
        for seed in (0, 1)
    ]
    assert len(found[0].images.test_images) == 4
    assert torch.equal(found[0].images.test_images, found[1].images.test_images)
    assert "20% of each class are held out" in found[0].images.notices[-1]
