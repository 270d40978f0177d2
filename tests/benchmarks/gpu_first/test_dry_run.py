"""Everything but the timer of a GPU runs on a CPU, small: what it writes, how it goes on, how it stops."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_first import __main__ as command
from benchmarks.gpu_first import solve, steps
from benchmarks.gpu_first.part import PARTS

ROOT = Path(__file__).parents[3]
DRY = ["--device", "cpu", "--tiny"]


def records(folder: Path, part: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path)]) == 77
    assert "no CUDA device here, nothing was tested or measured" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.codegen
def test_a_profile_alone_in_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert command.main([*DRY, "--out", str(folder), "--parts", "profile"]) == 0
    plain, rewritten = records(folder, "profile")
    assert plain["operators"] == {}
    kernels = [kernel for behind in rewritten["operators"].values() for kernel in behind]
    assert any("cholesky_solve" in kernel for kernel in kernels)
    assert len(list(folder.glob("trace_*.json.gz"))) == 2


def test_a_part_whose_time_is_up_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*DRY, "--out", str(tmp_path), "--parts", "steps", "--minutes", "0.001"]) == command.UNFINISHED
    assert "goes on with what is missing" in capsys.readouterr().out


def test_a_part_that_fails_is_no_reason_to_leave_out_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(command, "run_part", lambda part, options, deadline: begun.append(part) or len(begun) % 2)
    assert command.main([*DRY, "--out", str(tmp_path)]) == command.WRONG
    assert begun == list(PARTS)


def test_the_most_wanted_settings_come_first() -> None:
    found = [setting.key for setting in steps.settings(tiny=False)]
    assert len(found) == len(set(found)) == 16
    assert found[0] == "resnet50-224 bfloat16 channels-last default"
    assert all("float32" in key for key in found[8:])


def test_where_memory_is_too_small_the_batch_is_halved() -> None:
    batches = []

    def run(batch: int) -> int:
        batches.append(batch)
        if batch > 64:
            raise torch.OutOfMemoryError
        return batch

    setting = steps.Setting("resnet50-224", steps.PRECISIONS[0], None)
    assert steps.in_memory(run, setting, "cuda") == 64
    assert batches == [256, 128, 64]

    def fail(batch: int) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        steps.in_memory(fail, setting, "cuda")


def test_what_failed_is_tried_again() -> None:
    assert not solve.is_done(None, "cuda")
    assert not solve.is_done({"captured": False, "why": "not permitted"}, "cuda")
    assert solve.is_done({"captured": False, "why": "no CUDA device"}, "cpu")
    assert not solve.is_done({"error": 1e-3}, "cuda")
    assert not solve.is_done({"error": math.nan}, "cuda")
    assert solve.is_done({"error": 1e-14}, "cuda")


@pytest.mark.slow
def test_solve_is_measured_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert command.main([*DRY, "--out", str(tmp_path), "--parts", "solve"]) == 0
    found = {record["key"]: record for record in records(tmp_path, "solve")}
    assert list(found) == ["3x3 eager", "4x4 eager", "3x3 captured", "4x4 captured"]
    assert len(records(tmp_path, "solve")) == 4
    assert found["3x3 eager"]["error"] < 1e-12
    assert set(found["3x3 eager"]["seconds"]) == {"operator", "library", "cholesky_ex", "cholesky_solve"}


@pytest.mark.slow
@pytest.mark.codegen
def test_steps_and_correctness(tmp_path: Path) -> None:
    parts = ["correctness", "steps"]
    assert command.main([*DRY, "--out", str(tmp_path), "--parts", *parts]) == 0
    outcomes = [record["outcome"] for record in records(tmp_path, "correctness")]
    assert outcomes[0] == "begins"
    assert set(outcomes[1:]) == {"passed"}
    (step,) = records(tmp_path, "steps")
    assert {"compiled", "compiled tract-fx"} <= set(step["sides"])
    assert step["sides"]["compiled"]["ratio"] == 1.0
    assert set(step["captures_skipped"]) == set(step["sides"])


@pytest.mark.slow
def test_only_what_a_machine_with_a_gpu_has_is_imported(tmp_path: Path) -> None:
    """Neither the authors' module nor what only this project's other tests need."""
    absent = ("expecttest", "torch_tract", "tlparse", "torchvision", "timm")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from benchmarks.gpu_first import __main__, correctness, profiles, solve, steps, tables\n"
        "assert steps.sides() == ['compiled', 'compiled tract-fx'], steps.sides()\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
