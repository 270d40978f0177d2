"""Pictures: which files, of which layers, and that their pixels are the weights."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from support.natural import natural_images, standardised
from tract_fx import ProbeError, probe
from tract_fx.ops.patches import LINEAR, PatchGeometry
from tract_fx.probing.views.tiles import ENLARGED, tiles_of

IMAGES = standardised(natural_images(12, 16))


class Stems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 70, 3)
        self.grouped = nn.Conv2d(3, 6, 5, groups=3)
        self.audio = nn.Conv1d(3, 4, 7)
        self.flat = nn.Linear(768, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.stem(x), self.grouped(x), self.audio(x.flatten(2))
        return sum(part.tanh().flatten(1).mean(1) for part in (*parts, self.flat(x.flatten(1))))


def test_every_layer_has_its_pictures(tmp_path: Path) -> None:
    found = probe(Stems(), [IMAGES, IMAGES[:6]])
    written = found.save_figures(tmp_path / "new" / "folder")
    names = [layer.layer for layer in found.layers]
    assert sorted(names) == ["audio", "flat", "grouped", "stem"]
    expected = [
        f"{index}_{name}_{what}.png"
        for index, name in enumerate(names)
        for what in ("spectrum", "filters", "eigenvectors")
    ]
    assert [path.name for path in written] == expected
    for path in written:
        with Image.open(path) as picture:
            assert 500 <= picture.width <= 2600
            assert 250 <= picture.height <= 2600
            assert len(picture.convert("L").getcolors()) > 10


def test_without_a_finite_input_there_are_the_filters_alone(tmp_path: Path) -> None:
    found = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [torch.full((2, 3, 8, 8), float("nan"))])
    assert [path.name for path in found.save_figures(tmp_path)] == ["0_filters.png"]


def test_without_a_gradient_the_spectrum_is_drawn_all_the_same(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    found = probe(model, [IMAGES], loss=lambda output, item: 0 * output.sum())
    assert len(found.save_figures(tmp_path)) == 3


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [IMAGES])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProbeError, match=r"pip install 'tract-fx\[inspect\]'"):
        found.save_figures(tmp_path / "not made")
    assert not (tmp_path / "not made").exists()


def conv(*kernel: int) -> PatchGeometry:
    ones = (1,) * len(kernel)
    return PatchGeometry(kernel, ones, (0,) * len(kernel), ones)


def test_three_channels_are_colours_around_grey() -> None:
    vectors = torch.zeros(2, 12)
    vectors[0, 0], vectors[0, 7], vectors[1, 11] = 2.0, -2.0, 0.5  # red of pixel 0, green of pixel 3, blue of pixel 3
    tiles = tiles_of(vectors, conv(2, 2), each=True)
    assert tiles.in_colour
    assert tiles.pixels.shape == (2, 2, 2, 3)
    assert tiles.pixels[0, 0, 0].tolist() == [1.0, 0.5, 0.5]
    assert tiles.pixels[0, 1, 1].tolist() == [0.5, 0.0, 0.5]
    assert tiles.pixels[1, 1, 1].tolist() == [0.5, 0.5, 1.0]
    assert tiles_of(vectors, conv(2, 2), each=False).pixels[1, 1, 1, 2].item() == pytest.approx(0.625)


def test_other_channels_stand_one_below_the_other() -> None:
    vectors = torch.arange(1.0, 17.0)[None]
    tiles = tiles_of(vectors, conv(2, 2), each=True)
    assert not tiles.in_colour
    assert tiles.pixels.shape == (1, 4 * 2 * ENLARGED + 3, 2 * ENLARGED)
    assert tiles.pixels[0, -1, -1] == 1
    assert tiles.pixels[0, 2 * ENLARGED].isnan().all()
    assert "4 channels from top to bottom" in tiles.explanation
    assert "the first 8 of 9" in tiles_of(torch.randn(2, 36), conv(2, 2), each=True).explanation


def test_frames_stand_side_by_side() -> None:
    tiles = tiles_of(torch.randn(2, 3 * 2 * 4), conv(2, 2, 2), each=False)
    assert tiles.pixels.shape == (2, 2 * ENLARGED, 4 * ENLARGED + 1, 3)
    assert (tiles.pixels[:, :, 2 * ENLARGED] == 1).all()


def test_features_that_make_a_square_are_an_image_and_others_are_curves() -> None:
    vectors = torch.randn(3, 64)
    tiles = tiles_of(vectors, LINEAR, each=True)
    assert torch.allclose(tiles.pixels.flatten(1), (vectors / vectors.abs().amax(1, keepdim=True)).double())
    assert "the pixels of a 8x8 image" in tiles.explanation
    assert tiles_of(torch.randn(3, 63), LINEAR, each=True) is None
    assert tiles_of(torch.randn(3, 4), LINEAR, each=True) is None
    assert tiles_of(torch.randn(3, 21), conv(7), each=True) is None


def test_weights_that_are_not_finite_are_drawn_as_zero() -> None:
    vectors = torch.tensor([[float("nan"), 1.0, float("inf"), -1.0]])
    assert tiles_of(vectors, conv(2, 2), each=True).pixels.flatten().tolist() == [0, 1, 0, -1]
    assert tiles_of(torch.zeros(1, 4), conv(2, 2), each=False).pixels.abs().max() == 0
