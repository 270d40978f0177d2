"""Small models that a function makes, and forms of them that are not compiled."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from tract_fx.tools.training.sides import CompiledSides

CODE = """
    import torch
    from torch import nn

    def net(num_classes=10):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
                             nn.Linear(144, num_classes))

    def gray():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def ten():
        return net()

    def tokens():
        return nn.Conv2d(3, 4, 3)

    there = net(2)
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module `compared_models` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    Path("compared_models.py").write_text(textwrap.dedent(CODE))
    yield
    sys.modules.pop("compared_models", None)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms are the model itself."""
    for form in ("plain", "tract"):
        monkeypatch.setattr(CompiledSides, form, property(lambda self: self.model))
    match = {"layer": "0", "weight": "0.weight", "op": "convolution", "rows": 1, "features": 27, "form": "primal"}
    monkeypatch.setattr(CompiledSides, "matches", (match,))
