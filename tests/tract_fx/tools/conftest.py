"""Small images on disk, and what the demo makes of them."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tract_fx.tools.images.arrays import ImageSet
from tract_fx.tools.training.machine import processor_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are too small for more, and on a busy machine waiting for a second thread takes most of the time."""
    with processor_threads(1):
        yield


@pytest.fixture
def console() -> Console:
    """Writes to memory, without a terminal; `console.file.getvalue()` is what was said."""
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` PNGs of noise into each of the given folders, below `tmp_path/set`."""

    def write(*folders: str, count: int, size: int = 8, mode: str = "RGB") -> Path:
        rng = np.random.default_rng(0)
        shape = (size, size, 3) if mode == "RGB" else (size, size)
        for folder in folders:
            place = tmp_path / "set" / folder
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{i:03}.png")
        return tmp_path / "set"

    return write


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Pack a folder into an archive whose compression is told by its suffix."""

    def write(folder: Path, name: str) -> Path:
        path = tmp_path / name
        compression = path.suffix.removeprefix(".").replace("tar", "")
        with tarfile.open(path, f"w:{compression}") as archive:
            archive.add(folder, arcname=".")
        return path

    return write


@pytest.fixture
def image_set() -> ImageSet:
    """Two classes of 8x8 gray noise, one brighter: 40 images for training and 20 for testing."""
    generator = torch.Generator().manual_seed(0)

    def noise(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 2
        pixels = torch.randint(0, 100, (count, 1, 8, 8), generator=generator) + 20 * labels.view(-1, 1, 1, 1)
        return pixels.to(torch.uint8), labels

    return ImageSet("noise", ("dark", "bright"), *noise(40), *noise(20))
