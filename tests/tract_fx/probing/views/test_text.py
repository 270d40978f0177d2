"""What is printed, what goes into JSON."""

import dataclasses
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from support.natural import natural_images, standardised
from tract_fx import Concern, ConcernKind, Probe, probe

IMAGES = standardised(natural_images(12, 16))


@pytest.fixture(scope="module")
def found() -> Probe:
    return probe(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()), IMAGES.split(5))


def test_the_first_line_is_the_answer(found: Probe) -> None:
    assert str(found).splitlines()[0] == found.verdict == "0: nothing unusual in these data at lam=0.1"


def test_the_report_holds_the_numbers(found: Probe) -> None:
    layer, text = found.layers[0], str(found)
    assert "Conv2d 3->4, 3x3" in text
    assert "512 to 1.3 k of 27 features in each of 3 backward passes" in text
    assert f"{layer.effective_rank:.1f} of 27" in text
    assert f"{layer.at_lam.cosine:.3f} between TrAct's gradient and the plain one" in text
    assert sum(line.split()[:1] == [f"{point.lam:g}"] for point in layer.grid for line in text.splitlines()) == len(
        layer.grid
    )
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text


def test_the_first_concern_is_said_once_and_the_others_with_their_advice(found: Probe) -> None:
    kinds = ConcernKind.DEAD_CHANNEL, ConcernKind.FEW_ROWS
    concerns = tuple(Concern("0", kind, f"sentence {index}", f"Advice {index}.") for index, kind in enumerate(kinds))
    layer = dataclasses.replace(found.layers[0], warnings=concerns)
    text = str(dataclasses.replace(found, layers=(layer,)))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "0: sentence 0 (and 1 more)"
    assert lines[2:4] == ["Advice 0.", "Sentence 1. Advice 1."]
    assert text.count("entence 0") == 1


def test_rich_prints_it_in_colour(found: Probe) -> None:
    console = Console(record=True, width=100, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(found)
    assert "\x1b[1;32m" in capture.get()


def test_json(found: Probe) -> None:
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    layer = data["layers"][0]
    assert data["verdict"] == found.verdict
    assert layer["eigenvalues"][0] == found.layers[0].eigenvalues[0].tolist()
    assert layer["values"]["std"] == found.layers[0].values.std.tolist()
    assert [point["lam"] for point in layer["grid"]] == [point.lam for point in found.layers[0].grid]
    assert layer["geometry"]["kernel_size"] == [3, 3]
    assert layer["warnings"] == []


def test_json_of_what_is_infinite_or_unknown() -> None:
    x = torch.full((4, 3, 8, 8), float("nan"))
    nothing = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [x])
    data = json.loads(json.dumps(nothing.to_dict(), allow_nan=False))
    assert data["layers"][0]["condition"] is None
    assert data["layers"][0]["values"] is None
    assert data["layers"][0]["warnings"][0]["kind"] == "not finite"
    blank = probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), [torch.zeros(4, 3, 8, 8)])
    assert json.dumps(blank.to_dict(), allow_nan=False)
    assert "infinite" in str(blank) or "nearly constant" in str(blank)
