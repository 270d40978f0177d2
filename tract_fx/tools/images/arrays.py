"""An image set, held in memory as 8-bit tensors, and its standardised form for training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tract_fx.tools.errors import ImageError
from tract_fx.tools.images.decoding import decode
from tract_fx.tools.images.sampling import TEST_SHARE, choose_split
from tract_fx.tools.images.sources import Entry, layout, left_out_notice, open_source
from tract_fx.tools.memory import check_memory

DIGITS_SIZE = 8


@dataclass(frozen=True)
class ImageSet:
    """Images with classes, split for training and testing.

    Attributes:
        name: what to call the set.
        classes: class names; a label is an index into them.
        train_images, test_images: uint8 `(images, channels, size, size)`.
        train_labels, test_labels: int64 `(images,)`.
        notices: what was left out of the source, one sentence each.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    notices: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """1 for gray, 3 for colour."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.train_images.shape[-1]


def _unchanged(images: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class TrainingData:
    """The set for training, all of it on one device.

    Attributes:
        train_images, test_images: `(images, channels, height, width)`, float32 or what `finish` makes float32 of.
        train_labels, test_labels: int64 `(images,)`.
        finish: from stored images to what a network reads.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    finish: Callable[[Tensor], Tensor] = _unchanged


def standardised(images: ImageSet, device: torch.device) -> TrainingData:
    """Shift and scale each channel by the mean and standard deviation it has over the training images.

    TrAct's default `lam` is meant for inputs on this scale. A constant channel is only shifted.
    """
    mean, std = channel_statistics(images.train_images)
    return TrainingData(
        ((images.train_images - mean) / std).to(device),
        images.train_labels.to(device),
        ((images.test_images - mean) / std).to(device),
        images.test_labels.to(device),
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 `(1, channels, 1, 1)`, exact through 8-bit histograms."""
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).double()
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(dim=1)
    std = torch.where(variance > 0, variance, 1.0).sqrt()
    return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)


def load_digits(limit: int, seed: int) -> ImageSet:
    """scikit-learn's handwritten digits: 1,797 gray images of 8x8 pixels with 17 levels, ten classes."""
    from sklearn.datasets import load_digits as sklearn_digits  # takes seconds, and a run with --data needs none of it

    digits = sklearn_digits()
    pixels = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    labels = [str(digit) for digit in digits.target]
    train, test = choose_split(labels, [None] * len(labels), limit, seed)
    notices = _cut_notice(len(train) + len(test), len(labels))
    return _image_set("scikit-learn's digits", pixels, labels, train, test, notices)


def load_images(path: Path, image_size: int, limit: int, seed: int) -> ImageSet:
    """Images from a folder or archive of class folders, see `sources.layout`.

    Args:
        path: folder, or tar archive in any compression Python reads.
        image_size: side in pixels that every image is resized to.
        limit: images in total, balanced over the classes; 0 takes all.
        seed: of the choice and of the split, where the source has none.

    Raises:
        ImageError: if there is no image, fewer than two classes, or a class without training images.
    """
    source = open_source(path)
    entries = layout(source.names())
    if not entries:
        raise ImageError(
            f"--data {path}: no image in a class folder (expected <class>/<image> or train/<class>/<image>)"
            f"{''.join(f'. {notice}' for notice in left_out_notice(source))}"
        )
    labels = [entry.label for entry in entries]
    train, test = choose_split(labels, [entry.is_test for entry in entries], limit, seed)
    count = len(train) + len(test)
    # Decoded, and as the numbers that the networks see, of one channel at least.
    check_memory(count * image_size**2 * (3 + 4), f"--input 3x{image_size}x{image_size}: {count:,} images", ImageError)
    pixels, readable = _decode_all(source.read([entries[i].name for i in sorted(train + test)]), entries, image_size)
    notices = (*_cut_notice(count, len(entries)), *left_out_notice(source))
    if any(entry.is_test is None for entry in entries):
        notices = (*notices, f"There is no folder of test images: {TEST_SHARE:.0%} of each class are held out.")
    if skipped := count - len(readable):
        notices = (*notices, f"Skipped {skipped:,} files that could not be read as images.")
    row = {index: position for position, index in enumerate(readable)}
    return _image_set(
        path.name or str(path),
        pixels,
        [labels[i] for i in readable],
        [row[i] for i in train if i in row],
        [row[i] for i in test if i in row],
        notices,
    )


def _decode_all(files: Iterable[tuple[str, bytes]], entries: Sequence[Entry], size: int) -> tuple[Tensor, list[int]]:
    """Pixels uint8 `(readable, channels, size, size)` in entry order, and the entries they came from."""
    decoded = {name: pixels for name, data in files if (pixels := decode(data, size)) is not None}
    readable = [i for i, entry in enumerate(entries) if entry.name in decoded]
    if not readable:
        return torch.empty(0, 3, size, size, dtype=torch.uint8), []
    pixels = torch.from_numpy(np.stack([decoded[entries[i].name][0] for i in readable]))
    all_gray = all(gray for _, gray in decoded.values())
    return pixels[:, :1] if all_gray else pixels, readable


def _cut_notice(used: int, found: int) -> tuple[str, ...]:
    if used == found:
        return ()
    return (f"Using {used:,} of {found:,} images, balanced over the classes (--limit 0 takes all).",)


def _image_set(
    name: str, pixels: Tensor, labels: Sequence[str], train: list[int], test: list[int], notices: tuple[str, ...]
) -> ImageSet:
    classes = tuple(sorted({labels[i] for i in train + test}))
    _check(name, classes, {labels[i] for i in train}, len(test))
    number = {label: i for i, label in enumerate(classes)}
    targets = torch.tensor([number.get(label, -1) for label in labels])
    return ImageSet(name, classes, pixels[train], targets[train], pixels[test], targets[test], notices)


def _check(name: str, classes: Sequence[str], trained: set[str], test_count: int) -> None:
    if len(classes) < 2:
        raise ImageError(
            f"{name}: needs readable images of two classes or more, found {len(classes)} (see --data, --limit)"
        )
    if missing := [label for label in classes if label not in trained]:
        raise ImageError(f"{name}: no readable training image of class {missing[0]!r} (see --data, or raise --limit)")
    if not test_count:
        raise ImageError(f"{name}: no readable test image (see --data, or raise --limit)")
