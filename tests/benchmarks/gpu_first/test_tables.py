"""Tables of results on a GPU are made of such results and of nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_first import tables

GPU = {"device": "cuda", "tiny": False, "gpu": "a card"}


def write(folder: Path, part: str, *records: dict[str, Any]) -> None:
    (folder / f"{part}.jsonl").write_text("".join(json.dumps({**GPU, **record}) + "\n" for record in records))


@pytest.mark.parametrize("name", tables.TABLES)
def test_without_results_nothing_was_measured(name: str, tmp_path: Path) -> None:
    assert getattr(tables, name)(tmp_path) == "Not measured.\n"


def test_a_dry_run_is_no_result(tmp_path: Path) -> None:
    write(tmp_path, "correctness", {"key": "a.py::b", "outcome": "passed", "device": "cpu"})
    assert tables.gpu_correctness(tmp_path) == tables.NOT_MEASURED
    write(tmp_path, "correctness", {"key": "a.py::b", "outcome": "passed", "tiny": True})
    assert tables.gpu_correctness(tmp_path) == tables.NOT_MEASURED


def test_outcomes_are_counted_once_for_each_test(tmp_path: Path) -> None:
    records = [{"key": "a.py begins", "outcome": "begins"}, {"key": "a.py::b", "outcome": "failed"}]
    write(tmp_path, "correctness", *records, {"key": "a.py::b", "outcome": "passed"})
    assert tables.gpu_correctness(tmp_path).splitlines()[-1] == "| a card | `a.py` | 1 | 0 | 0 |"


def test_a_capture_that_failed_says_why(tmp_path: Path) -> None:
    eager = {"operator": 5e-5, "library": 2e-4, "kernel": 5e-5, "cholesky_ex": 1e-4, "cholesky_solve": 1e-4}
    write(
        tmp_path,
        "solve",
        {"key": "3x3 eager", "n": 27, "seconds": eager},
        {"key": "3x3 captured", "n": 27, "captured": False, "why": "operation not permitted"},
    )
    assert tables.gpu_solve(tmp_path).splitlines()[-1] == (
        "| a card | 27 | 50 µs | 200 µs | 50 µs | 100 µs | 100 µs | no: operation not permitted |"
    )


def side(ratio: float) -> dict[str, float]:
    return {"seconds": 0.1 * ratio, "ratio": ratio, "ratio_20_percent": ratio - 0.01, "ratio_80_percent": ratio + 0.01}


def test_steps_have_ratios_and_what_went_wrong(tmp_path: Path) -> None:
    about = {"workload": "net", "dtype": "bfloat16", "channels_last": True, "mode": "default"}
    good = {"sides": {"compiled": side(1.0), "compiled tract-fx": side(1.02)}, "captures_skipped": {"compiled": 0}}
    write(tmp_path, "steps", {"key": "a", **about, **good}, {"key": "b", **about, "problem": "no memory\nat all"})
    first, second = tables.gpu_steps(tmp_path).splitlines()[-2:]
    assert first == "| a card | net | bfloat16, channels-last | default | 100.00 ms | +2.0 % (+1.0 to +3.0) | - | 0 |"
    assert "failed: no memory |" in second


def test_a_profile_names_what_the_rewrite_adds_and_removes(tmp_path: Path) -> None:
    plain = {"kernels": {"shared": 5.0, "wgrad": 90.0}, "operators": {}}
    rewritten = {"kernels": {"shared": 5.0, "gram": 40.0}, "operators": {"tract_fx::sums": {"gram": 40.0}}}
    write(
        tmp_path,
        "profile",
        {"key": "a", "workload": "net", "side": "compiled", **plain},
        {"key": "b", "workload": "net", "side": "compiled tract-fx", **rewritten},
    )
    assert tables.gpu_profile(tmp_path).splitlines()[2:] == [
        "| a card | net | behind `tract_fx::sums` | `gram` | 40 µs |",
        "| a card | net | plain step only | `wgrad` | 90 µs |",
        "| a card | net | TrAct step only | `gram` | 40 µs |",
    ]
