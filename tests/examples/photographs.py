"""A folder of small photographs: pieces of scikit-learn's two sample images, as JPEG files in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
COUNTS = {"train": 32, "val": 4}


def write(folder: Path) -> Path:
    """``train/<class>`` and ``val/<class>``, a class for each of the two photographs."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in COUNTS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                top, left = (rng.integers(0, size - 4 * SIDE) for size in pixels.shape[:2])
                piece = Image.fromarray(pixels[top : top + 4 * SIDE, left : left + 4 * SIDE]).resize((SIDE, SIDE))
                piece.save(folder / split / name / f"{number:02}.jpg", quality=95)
    return folder
