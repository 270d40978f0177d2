"""Promise 5: caches stay on, stay right, and a second process says the same as the first."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import forked, second_process
from support.marks import codegen
from support.works import works

pytestmark = codegen
TESTS = Path(__file__).parents[1]


def run(cache: Path, backend: str, lam: float = 0.1, model: str = "conv", evaluate: bool = False) -> dict[str, Any]:
    """One training step in a new process; hits, misses and bypasses of both caches are in the result."""
    return forked.call(second_process.main, backend, lam, model, evaluate, TORCHINDUCTOR_CACHE_DIR=str(cache))


def run_in_another_interpreter(cache: Path, lam: float) -> dict[str, Any]:
    """The same where nothing is inherited, hashes of strings included."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-m", "support.second_process", "tract", str(lam), "conv"],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def missed(result: dict[str, Any]) -> bool:
    hits, misses, bypasses = result["caches"]["aot"]
    return (hits, misses, bypasses) == (0, 1, 0) and result["caches"]["fx"][0] == 0


def hit(result: dict[str, Any]) -> bool:
    return result["caches"]["aot"] == [1, 0, 0] and result["caches"]["fx"][1:] == [0, 0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(cache: Path) -> dict[str, Any]:
    return run(cache, "tract")


def test_the_first_process_compiles(first: dict[str, Any]) -> None:
    assert missed(first)
    assert first["error"] <= 1e-5
    assert first["matches"]


@works("caches")
@pytest.mark.parametrize("lam", [0.1, 0.5])
def test_the_second_process_hits_and_is_right_for_its_own_lam(cache: Path, first: dict[str, Any], lam: float) -> None:
    second = run_in_another_interpreter(cache, lam) if lam == 0.1 else run(cache, "tract", lam)
    assert hit(second)
    assert second["error"] <= 1e-5
    assert second["matches"] == first["matches"]
    assert second["warnings"] == first["warnings"] == []


@works("caches")
def test_plain_inductor_and_tract_never_share_an_entry(cache: Path, first: dict[str, Any]) -> None:
    plain = run(cache, "plain")
    assert missed(plain)
    assert plain["error"] > 1e-2
    # The other way round: the entry of plain Inductor is there first.
    assert missed(run(cache, "plain", model="linear"))
    tract = run(cache, "tract", model="linear")
    assert missed(tract)
    assert tract["error"] <= 1e-5


@works("caches")
def test_the_second_process_warns_like_the_first(cache: Path) -> None:
    before, after = (run(cache, "tract", model="embedding") for _ in range(2))
    assert missed(before)
    assert hit(after)
    assert after["warnings"] == before["warnings"]
    assert len(after["warnings"]) == 1
    assert after["rejections"] == before["rejections"]


def test_an_evaluation_of_the_same_graph_does_not_hide_the_matches(cache: Path, first: dict[str, Any]) -> None:
    """Training and inference share the captured graph, but not what is found in it."""
    assert run(cache, "tract", evaluate=True)["matches"] == first["matches"]
    assert run(cache, "tract")["matches"] == first["matches"]


def test_a_cached_graph_without_its_record_is_compiled_anew(cache: Path, first: dict[str, Any]) -> None:
    for record in (cache / "tract_fx").rglob("*.json"):
        record.unlink()
    after = run(cache, "tract")
    assert missed(after)
    assert after["matches"] == first["matches"]
