"""What is known about a compiled graph outlives the process that compiled it."""

import json
from pathlib import Path

import pytest

from tract_fx.compile.cache import RecordStore
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
