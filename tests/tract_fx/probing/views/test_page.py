"""The page holds what the terminal shows, loads nothing, and is made of escaped text."""

import dataclasses
import re
from html import unescape
from pathlib import Path

import pytest
import torch
from torch import nn

from support.natural import natural_images, standardised
from tract_fx import Concern, ConcernKind, Probe, probe
from tract_fx.probing.views import text

IMAGES = standardised(natural_images(12, 16))


@pytest.fixture(scope="module")
def found() -> Probe:
    return probe(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()), IMAGES.split(6))


def page_of(found: Probe, folder: Path) -> str:
    return found.to_html(folder / "page.html").read_text()


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<(style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def test_it_holds_what_the_terminal_shows(found: Probe, tmp_path: Path) -> None:
    shown = words(page_of(found, tmp_path))
    layer = found.layers[0]
    assert found.verdict in shown
    for name, value in text.facts(layer):
        assert f"{name} {value}" in shown
    for cells, _ in text.grid_rows(layer):
        assert " ".join(filter(None, cells)) in shown
    for name, sentence in text.columns_of(layer):
        assert f"{name} {sentence}" in shown
    for line in text.summary(found):
        assert line in shown


def test_every_column_has_a_sentence(found: Probe) -> None:
    layer = found.layers[0]
    assert len(text.heads_of(layer)) == 1 + len(text.columns_of(layer)) == len(next(text.grid_rows(layer))[0])
    assert all(
        sentence.endswith(".") and f"{name}: {sentence}" in str(found) for name, sentence in text.columns_of(layer)
    )


def test_it_loads_nothing_and_has_the_pictures(found: Probe, tmp_path: Path) -> None:
    page = page_of(found, tmp_path)
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"https?://|<script|url\((?!data)", page)


def test_names_and_advice_are_escaped(found: Probe, tmp_path: Path) -> None:
    concern = Concern("0", ConcernKind.HARM, "<b>sentence</b>", "Advice & more.")
    layer = dataclasses.replace(found.layers[0], layer="<script>x", warnings=(concern,))
    page = page_of(dataclasses.replace(found, layers=(layer,)), tmp_path)
    assert "<script" not in page
    assert "&lt;b&gt;sentence" in page
    assert "Advice & more." in words(page)


def test_a_layer_without_gradients_has_no_table(tmp_path: Path) -> None:
    x = torch.full((4, 3, 8, 8), float("nan"))
    page = page_of(probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [x]), tmp_path)
    assert "<table" not in page
    assert "hold NaN" in page
