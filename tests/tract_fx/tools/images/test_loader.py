"""Images from a folder arrive as the model expects them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from tract_fx.tools.errors import ImageError, ModelError
from tract_fx.tools.images.loader import image_batches
from tract_fx.tools.models.loaded import LoadedModel, tensor_arguments

COLOURS = {"cat": (255, 0, 51), "dog": (0, 102, 204)}
MEAN, STD = (0.5, 0.25, 0.0), (0.5, 1.0, 2.0)


def model(shape: tuple[int, ...] | None = (3, 8, 8), normalisation: Any = (MEAN, STD)) -> LoadedModel:
    return LoadedModel("own", nn.Identity(), tensor_arguments("own", shape), shape, normalisation)


def batches(path: Path, of: LoadedModel | None = None, **arguments: Any) -> list[Any]:
    defaults = {"shape": None, "batch_size": 4, "batches": 8, "mean": None, "std": None, "seed": 0}
    return image_batches(path, of or model(), **{**defaults, **arguments}).batches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images of one colour for each of two classes, and things that are none."""
    for name, colour in COLOURS.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (12, 16), colour).save(tmp_path / "train" / name / f"{index}.png")
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"no image")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.new("RGB", (12, 16), (1, 2, 3)).save(tmp_path / "test" / "cat" / "0.png")
    return tmp_path


def expected(colour: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([(value / 255 - m) / s for value, m, s in zip(colour, mean, std, strict=True)])


def test_training_images_with_their_labels_in_the_model_s_own_scale(folder: Path) -> None:
    found = batches(folder)
    assert [len(images) for images, _ in found] == [4, 4, 4, 4, 4]
    seen = set()
    for images, labels in found:
        assert images.shape[1:] == (3, 8, 8)
        for image, label in zip(images, labels.tolist(), strict=True):
            colour = COLOURS[("cat", "dog")[label]]
            assert torch.allclose(image.amax((1, 2)), expected(colour, MEAN, STD), atol=1e-6)
            assert torch.allclose(image.amin((1, 2)), expected(colour, MEAN, STD), atol=1e-6)
            seen.add(label)
    assert seen == {0, 1}


def test_batches_are_drawn_at_random_and_again_the_same(folder: Path) -> None:
    first, again, other = (batches(folder, batches=2, seed=seed) for seed in (0, 0, 1))
    labels = [[item.tolist() for _, item in found] for found in (first, again, other)]
    assert labels[0] == labels[1] != labels[2]
    assert len(first) == 2
    assert len({*labels[0][0], *labels[0][1]}) == 2  # not one class after the other


def test_what_is_asked_for_goes_before_the_model_s_own(folder: Path) -> None:
    images, _ = batches(folder, shape=(5, 5), mean=(0.0,), std=(1.0,))[0]
    assert images.shape == (4, 3, 5, 5)
    assert images.min() >= 0
    assert torch.isclose(images.max(), torch.ones(())).item()


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("L", (9, 9), 51 * index).save(tmp_path / f"{index}.png")
    (images,) = batches(tmp_path, model((1, 6, 9), None))
    assert images.shape == (3, 1, 6, 9)
    assert sorted(image.mean().item() for image in images) == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize(
    ("of", "arguments", "said"),
    [
        (model(None), {}, "give --input"),
        (model((3, 4, 8, 8)), {}, "takes 3x4x8x8, not images"),
        (model((128,)), {}, "takes 128, not images"),
        (model(), {"mean": (0.5, 0.5)}, "--mean: has 2 numbers, but the model takes images of 3 channels"),
    ],
)
def test_a_model_that_takes_no_such_images(folder: Path, of: LoadedModel, arguments: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        batches(folder, of, **arguments)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(ModelError, match="holds no image that can be read"):
        batches(tmp_path)
    with pytest.raises(ImageError, match="no such folder or archive"):
        batches(tmp_path / "nowhere")
