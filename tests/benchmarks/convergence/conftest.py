"""A folder of real images, small, and experiments of a size that goes with it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.convergence import inputs, methods, sizes

TRAIN, TEST = 12, 6


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cuttings of two photographs, a class each."""
    folder = tmp_path_factory.mktemp("images")
    for label, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for split, count, top in (("train", TRAIN, 0), ("test", TEST, 200)):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                cutting = photograph[top : top + 128, 40 * number : 40 * number + 128]
                Image.fromarray(cutting).save(place / f"{number:02d}.jpg")
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> sizes.Size:
    """The CPU's size with small batches, few values of each list, and no generated code."""
    size = dataclasses.replace(
        sizes.SIZES["small"], budgets=(1, 2, 4), late=5, train=0, test=0, batch=8, lams=(0.05, 0.1, 0.2), widths=(0.5,)
    )
    monkeypatch.setitem(sizes.SIZES, "small", size)
    monkeypatch.setattr(methods.compat, "can_generate_code", lambda device: False)
    methods.trainee.cache_clear()
    # The eigenvectors of whole images take ten seconds for each run; what they are for is tested elsewhere.
    of_patches = inputs.inverse_root
    monkeypatch.setattr(
        inputs,
        "inverse_root",
        lambda matrix, lam: of_patches(matrix, lam) if len(matrix) < 1000 else torch.eye(len(matrix)),
    )
    return size
