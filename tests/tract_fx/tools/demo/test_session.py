import dataclasses
from pathlib import Path

import pytest
import torch

from tract_fx.tools.demo import session
from tract_fx.tools.demo.models import RECIPES
from tract_fx.tools.demo.settings import DemoSettings
from tract_fx.tools.demo.training import Schedule
from tract_fx.tools.errors import DemoError
from tract_fx.tools.images.arrays import standardised
from tract_fx.tools.training.sides import CompiledSides

SETTINGS = DemoSettings(None, ("resnet",), 2, 0.1, 0, 16, None, 0, "cpu", 1, Path("out"), "aot_eager")
SCHEDULE = Schedule(epochs=2, batch_size=16, seed=0)


@pytest.fixture
def both_plain(monkeypatch):
    monkeypatch.setattr(CompiledSides, "tract", CompiledSides.plain)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("both_plain")
def test_sides_differ_in_nothing_but_the_backend(image_set, console, name):
    data = standardised(image_set, torch.device("cpu"))
    pair = session.train_pair(RECIPES[name], image_set, data, SCHEDULE, SETTINGS, console)
    plain, tract = (pair.runs[side] for side in ("plain", "TrAct"))
    assert plain.epochs == tract.epochs
    assert torch.equal(plain.filters, tract.filters)
    assert not torch.equal(plain.filters, pair.initial_filters)


def test_tract_changes_the_first_layer_and_says_so(image_set, console):
    data = standardised(image_set, torch.device("cpu"))
    pair = session.train_pair(RECIPES["resnet"], image_set, data, SCHEDULE, SETTINGS, console)
    assert not torch.equal(pair.runs["plain"].filters, pair.runs["TrAct"].filters)
    (match,) = pair.matches
    assert match["layer"] == "stem"
    assert (match["features"], match["rows"]) == (9, 16 * 64)


def test_lam_reaches_the_backend(image_set, console, both_plain, monkeypatch):
    asked, of = [], CompiledSides.of
    monkeypatch.setattr(CompiledSides, "of", lambda self, side: (of(self, side), asked.append(self.backend.lam))[0])
    settings = dataclasses.replace(SETTINGS, lam=0.7)
    data = standardised(image_set, torch.device("cpu"))
    session.train_pair(RECIPES["resnet"], image_set, data, SCHEDULE, settings, console)
    assert asked[-1] == 0.7


def test_weights_depend_on_the_seed(image_set, console, both_plain):
    data = standardised(image_set, torch.device("cpu"))
    first, second = (
        session.train_pair(
            RECIPES["resnet"], image_set, data, SCHEDULE, dataclasses.replace(SETTINGS, seed=seed), console
        )
        for seed in (0, 1)
    )
    assert not torch.equal(first.initial_filters, second.initial_filters)


@pytest.mark.parametrize(("data", "size"), [(None, 8), (Path("images"), 32)])
def test_what_is_not_asked_for_is_chosen(tmp_path, data, size):
    settings = dataclasses.replace(SETTINGS, data=data, device=None, threads=None, out=tmp_path / "a" / "b")
    chosen = session.resolved(settings)
    assert chosen.input == (size, size)
    assert chosen.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen.threads == max(1, torch.get_num_threads() - 1)
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": (3, 16, 16)}, "--input 3x16x16: applies to --data only"),
        ({"data": Path("d"), "input": (32, 24)}, "--input 32x24: must be square"),
        ({"device": "abacus"}, "--device abacus"),
        ({"device": "meta"}, "--device meta"),
        ({"device": "hpu"}, "--device hpu"),
        ({"threads": 100_000}, "--threads 100000: this machine has"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(DemoError, match=message):
        session.resolved(dataclasses.replace(SETTINGS, out=tmp_path, **changes))
