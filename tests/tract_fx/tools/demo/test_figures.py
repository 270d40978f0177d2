import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tract_fx.tools.demo.figures import _mosaic, _spans_decades, draw_curves, draw_filters
from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.demo.training import Epoch, Run


def pair(channels: int = 1, count: int = 20, size: int = 3) -> Pair:
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(3, count, channels, size, size, generator=generator)
    epochs = tuple(Epoch(1 / number, 1 - 0.5 / number) for number in range(1, 6))
    runs = {
        side: Run(epochs, 1.0, 1.0, torch.ones(4, dtype=torch.bool), weight)
        for side, weight in zip(("plain", "TrAct"), filters[1:], strict=True)
    }
    return Pair(filters[0], runs, ())


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("networks", [1, 2])
def test_curves_have_a_row_of_panels_per_network(tmp_path, networks):
    draw_curves({f"Net {i}": pair() for i in range(networks)}, "images", tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png")
    assert picture.shape[1] == 1500
    assert picture.shape[0] == 90 + 510 * networks
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (picture == colour).all(axis=-1).any()


@pytest.mark.parametrize(("channels", "count"), [(1, 16), (3, 96), (2, 1)])
def test_filters_are_drawn(tmp_path, channels, count):
    draw_filters("Net", pair(channels, count, size=4), tmp_path / "filters.png")
    picture = pixels(tmp_path / "filters.png")
    assert min(picture.shape[:2]) >= 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3])
def test_diverged_run_is_drawn(tmp_path, channels):
    healthy = pair(channels)
    run = healthy.runs["TrAct"]
    epochs = (Epoch(math.inf, 0.1), *(Epoch(math.nan, 0.1) for _ in range(4)))
    lost = dataclasses.replace(run, epochs=epochs, filters=torch.full_like(run.filters, math.nan))
    diverged = dataclasses.replace(healthy, runs=healthy.runs | {"TrAct": lost})
    draw_curves({"Net": diverged}, "images", tmp_path / "curves.png")
    draw_filters("Net", diverged, tmp_path / "filters.png")
    assert min(pixels(tmp_path / "curves.png").shape[:2]) >= 500
    assert min(pixels(tmp_path / "filters.png").shape[:2]) >= 500


@pytest.mark.parametrize(("last", "logarithmic"), [(0.2, False), (0.05, True)])
def test_loss_axis_is_logarithmic_over_a_decade(last, logarithmic):
    healthy = pair()
    run = dataclasses.replace(healthy.runs["plain"], epochs=(Epoch(1.0, 0.5), Epoch(last, 0.5)))
    assert _spans_decades(dataclasses.replace(healthy, runs={"plain": run})) is logarithmic


def test_mosaic_shows_each_filter_once_in_reading_order():
    filters = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 3, 3)
    mosaic = _mosaic(filters, 4.0)
    shown = mosaic[~np.isnan(mosaic)]
    values, counts = np.unique(shown, return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert len(set(counts)) == 1
    assert mosaic[0, 0] == 0
    assert mosaic[0, -1] == 2
    assert mosaic[-1, 0] == 3


def test_mosaic_of_colour_filters_maps_the_scale_to_black_and_white():
    filters = torch.stack([torch.full((3, 3, 3), -2.0), torch.zeros(3, 3, 3), torch.full((3, 3, 3), 2.0)])
    mosaic = _mosaic(filters, 2.0)
    assert mosaic[0, 0].tolist() == [0, 0, 0]
    assert mosaic[0, -1].tolist() == [0.5, 0.5, 0.5]
    assert mosaic[-1, 0].tolist() == [1, 1, 1]
