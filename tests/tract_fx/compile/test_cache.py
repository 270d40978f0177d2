"""What is known about a compiled graph outlives the process that compiled it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tract_fx.backend import TractBackend
from tract_fx.compile.cache import RecordStore, fingerprint
from tract_fx.compile.captured import Captured
from tract_fx.compile.compilers import Compiled, compile_graph
from tract_fx.compile.lam_input import LamInput
from tract_fx.options import TractOptions
from tract_fx.records import GraphRecord, LayerMatch, LayerRejection

RECORD = GraphRecord(
    (LayerMatch("conv.weight", "conv", "convolution", "196*s0", 48, 2, "primal"),),
    (LayerRejection("", "table", "embedding", "no first layer", "a look-up", "name another"),),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_record_is_found_again_with_its_token() -> None:
    store = RecordStore(("a", 1))
    assert store.record is None
    store.save(RECORD)
    again = RecordStore(("a", 1))
    assert again.record == RECORD
    assert again.token == store.token


def test_other_keys_have_other_records_and_other_tokens() -> None:
    store = RecordStore(("a", 1))
    store.save(RECORD)
    other = RecordStore(("a", 2))
    assert other.record is None
    assert other.token != store.token


def test_without_a_record_every_attempt_has_a_token_of_its_own() -> None:
    """So that no cached graph can be found about which nothing is known."""
    assert RecordStore(("a",)).token != RecordStore(("a",)).token


@pytest.mark.parametrize(
    "content", ["", "{", "[]", json.dumps({"token": "t"}), json.dumps({"token": "t", "record": {"matches": [{}]}})]
)
def test_a_damaged_record_counts_as_none(content: str) -> None:
    store = RecordStore(("a",))
    store.save(RECORD)
    store.path.write_text(content)
    damaged = RecordStore(("a",))
    assert damaged.record is None
    assert damaged.token != store.token


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cache / "tract_fx").write_text("a file where the folder should be")
    RecordStore(("a",)).save(RECORD)
    assert "could not be stored" in caplog.text


def test_a_rejection_names_the_layer_once() -> None:
    assert str(RECORD.rejections[0]) == "table (embedding): a look-up. name another"
    assert str(LayerRejection("w", "", "mul", "k", "why", "")) == "w (mul): why."


def key_of(**options: Any) -> str:
    """That of the record of one layer, compiled with these options; what ``id`` would change is the same here."""
    keys: list[str] = []

    def keeping(captured: Captured, lam: LamInput) -> Compiled:
        keys.append(repr(fingerprint(captured, lam)))
        return compile_graph(captured, lam)

    torch._dynamo.reset()
    backend = TractBackend(TractOptions(inner="aot_eager", **options), keeping)
    torch.manual_seed(0)
    torch.compile(nn.Linear(3, 2), backend=backend)(torch.randn(4, 3)).sum().backward()
    return keys[0]


def test_a_relative_lam_has_a_key_of_its_own_and_another_value_of_lam_has_not() -> None:
    """The rewritten graph differs in the first case and reads ``lam`` as an input in the second."""
    assert key_of() == key_of(lam=0.3)
    assert key_of() != key_of(relative=True)
