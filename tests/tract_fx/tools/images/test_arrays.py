from collections import Counter

import numpy as np
import pytest
import torch

from tract_fx.tools.errors import ImageError
from tract_fx.tools.images.arrays import ImageSet, load_digits, load_images, standardised

CPU = torch.device("cpu")


def equal(first: ImageSet, second: ImageSet) -> bool:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return first.classes == second.classes and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in names
    )


@pytest.mark.parametrize("folders", [("a", "b"), ("train/a", "train/b", "test/a", "test/b")])
@pytest.mark.parametrize("limit", [0, 10])
def test_folder_and_archive_load_to_the_same_tensors(write_images, write_tar, folders, limit):
    folder = write_images(*folders, count=6, size=12)
    from_folder = load_images(folder, 8, limit, seed=3)
    for name in ("set.tar", "set.tar.xz"):
        assert equal(load_images(write_tar(folder, name), 8, limit, seed=3), from_folder)


def test_each_image_keeps_its_label(tmp_path):
    from PIL import Image

    for shade, label in enumerate("abc"):
        (tmp_path / label).mkdir()
        for i in range(5):
            Image.fromarray(np.full((8, 8), 50 * shade + i, np.uint8)).save(tmp_path / label / f"{i}.png")
    images = load_images(tmp_path, 8, 0, seed=0)
    assert images.channels == 1
    assert torch.equal(images.train_images[:, 0, 0, 0] // 50, images.train_labels)
    assert torch.equal(images.test_images[:, 0, 0, 0] // 50, images.test_labels)
    together = torch.cat([images.train_images, images.test_images]).flatten(1).unique(dim=0)
    assert len(together) == 15


def test_folder_split_is_seen(write_images):
    images = load_images(write_images("train/a", "train/b", "val/a", "val/b", count=3), 8, 0, seed=0)
    assert (len(images.train_images), len(images.test_images)) == (6, 6)
    assert images.notices == ()


def test_limit_is_told(write_images):
    images = load_images(write_images("a", "b", count=10), 8, 10, seed=0)
    assert len(images.train_images) + len(images.test_images) == 10
    assert set(Counter(images.train_labels.tolist()).values()) == {4}
    assert images.notices == (
        "Using 10 of 20 images, balanced over the classes (--limit 0 takes all).",
        "There is no folder of test images: 20% of each class are held out.",
    )


def test_unreadable_files_are_skipped_and_counted(write_images):
    folder = write_images("a", "b", count=10)
    (folder / "a" / "000.png").write_bytes(b"broken")
    (folder / "b" / "000.png").write_bytes(b"")
    images = load_images(folder, 8, 0, seed=0)
    assert len(images.train_images) + len(images.test_images) == 18
    assert "Skipped 2 files that could not be read as images." in images.notices


def test_set_with_some_colour_has_three_channels(write_images):
    write_images("a", count=5, mode="L")
    assert load_images(write_images("b", count=5), 8, 0, seed=0).channels == 3


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"--data .*: no image in a class folder"):
        load_images(tmp_path, 8, 0, seed=0)


def test_one_class_is_an_error(write_images):
    with pytest.raises(ImageError, match="two classes or more, found 1"):
        load_images(write_images("only", count=5), 8, 0, seed=0)


def test_only_broken_images_is_an_error(write_images):
    folder = write_images("a", "b", count=1)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(ImageError, match="two classes or more, found 0"):
        load_images(folder, 8, 0, seed=0)


def test_class_that_is_only_tested_is_an_error(write_images):
    with pytest.raises(ImageError, match="no readable training image of class 'b'"):
        load_images(write_images("train/a", "train/c", "test/a", "test/b", count=2), 8, 0, seed=0)


def test_limit_too_small_to_test_is_an_error(write_images):
    with pytest.raises(ImageError, match="no readable test image"):
        load_images(write_images("a", "b", count=5), 8, 2, seed=0)


def test_digits_are_split_by_class():
    digits = load_digits(0, seed=0)
    assert digits.train_images.shape[1:] == (1, 8, 8)
    assert len(digits.train_images) + len(digits.test_images) == 1797
    assert digits.classes == tuple("0123456789")
    shares = torch.bincount(digits.test_labels) / (
        torch.bincount(digits.test_labels) + torch.bincount(digits.train_labels)
    )
    assert (shares - 0.2).abs().max() < 0.01


def test_training_images_are_standardised_by_channel(write_images):
    images = load_images(write_images("a", "b", count=10), 8, 0, seed=0)
    data = standardised(images, CPU)
    pixels = data.train_images.double()
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))
    raw = images.train_images.double()
    expected = (images.test_images - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(data.test_images, expected.float())


def test_constant_channel_stays_finite():
    flat = torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    data = standardised(ImageSet("flat", ("a", "b"), flat, labels, flat, labels), CPU)
    assert torch.equal(data.train_images, torch.zeros(4, 1, 8, 8))
