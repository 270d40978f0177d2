"""Every experiment runs from its command to its table."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.convergence.__main__ import main
from benchmarks.convergence.experiments import EXPERIMENTS, vit_variants
from benchmarks.convergence.sizes import SIZES, Size
from benchmarks.convergence.summary import load_results
from tract_fx.tools.training.journal import read

# Each of these compiles networks of its own; all fourteen of "many" are built in test_many_models.
ONLY = {"many": ["vgg"], "vit": ["coarse"], "lambda": ["width"], "rates": ["resnet_sgd"], "ablations": ["vit"]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_steps_of_every_run(
    name: str, tiny: Size, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "batch":  # four of these are less than all images, and an epoch may be one step
        tiny = dataclasses.replace(tiny, batch=4, budgets=(2, 4, 8))
        monkeypatch.setitem(SIZES, "small", tiny)
    arguments = [name, "--data", str(image_folder), "--out", str(tmp_path), "--seeds", "0", "--steps", "2"]
    arguments += ["--device", "cpu", "--only", *ONLY.get(name, [""])]
    assert main(arguments) == 0
    runs = [
        run for run in EXPERIMENTS[name].all_runs(tiny, [0]) if all(part in run.name for part in ONLY.get(name, []))
    ]
    files = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.rglob("*.jsonl")
    }
    assert set(files) == {run.name for run in runs}
    for run in runs:
        first, *epochs, last = files[run.name]
        assert first["run"] == run.record()
        assert first["batch"] == (run.batch or tiny.batch)
        assert last["finished"]
        assert last["steps"] == 2
        # What the pass has rewritten, in the very runs that say so.
        assert bool(last["rewritten"]) == (run.method.startswith("tract") and run.method not in OUTSIDE), run.name
        assert 0 <= epochs[-1]["accuracy"] <= 1
    assert not list(tmp_path.rglob("*.checkpoint"))
    assert not load_results("small", tmp_path), "runs that were only tried out are no results"


OUTSIDE = ("tract-running", "tract-8-shared", "tract-dataset", "tract-relative")


@pytest.mark.usefixtures("tiny")
def test_the_size_for_a_gpu(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks, bfloat16 and memory format, for a step, here on the CPU and with a small batch."""
    monkeypatch.setitem(SIZES, "full", dataclasses.replace(SIZES["full"], batch=8))
    arguments = ["speedup", "--size", "full", "--data", str(image_folder), "--out", str(tmp_path), "--seeds", "0"]
    for only in ("resnet_sgd_25epochs_tract", "vit_adam_25epochs_tract"):
        assert main([*arguments, "--device", "cpu", "--steps", "1", "--only", only]) == 0
    lasts = [read(path)[-1] for path in sorted(tmp_path.rglob("*.jsonl"))]
    assert [last["rewritten"] for last in lasts] == [["stem.weight"], ["patch_embed.proj.weight"]]


def test_finished_runs_are_left_alone_and_other_runs_refused(
    tiny: Size, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["speedup", "--data", str(image_folder), "--out", str(tmp_path), "--seeds", "0", "--device", "cpu"]
    arguments += ["--only", "resnet_sgd_1epochs_plain"]
    assert main([*arguments, "--steps", "1"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")}
    assert main([*arguments, "--steps", "1"]) == 0
    assert "already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jsonl")} == before
    assert main(arguments) == 1
    assert "steps was 1, and is None now" in capsys.readouterr().out


def test_images_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speedup", "--data", str(tmp_path / "none"), "--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "no such folder or archive" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_several_workers_do_all_runs_once(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own; there the absence of a compiler is what keeps them from generating code."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    arguments = ["speedup", "--data", str(image_folder), "--out", str(tmp_path), "--seeds", "0", "--device", "cpu"]
    assert main([*arguments, "--only", "resnet_sgd_1epochs", "--workers", "2", "--steps", "1"]) == 0
    assert {path.stem for path in tmp_path.rglob("*.jsonl")} == {
        "resnet_sgd_1epochs_plain_seed0",
        "resnet_sgd_1epochs_tract_seed0",
    }


def test_every_experiment_trains_both_sides_of_every_setting() -> None:
    """With the same seed, so that their difference is that of TrAct."""
    for size in SIZES.values():
        for experiment in EXPERIMENTS.values():
            runs = experiment.all_runs(size, [0, 1])
            assert len(set(runs)) == len(runs)
            plain = {
                (run.network, run.optimizer, run.epochs, run.seed, run.width) for run in runs if "plain" in run.method
            }
            assert {(run.network, run.optimizer, run.epochs, run.seed, run.width) for run in runs} <= plain


def test_each_variant_of_the_transformer_changes_one_thing() -> None:
    (_, ordinary), *variants = [(title, dataclasses.asdict(run)) for title, run in vit_variants(SIZES["small"])]
    changed = [(title, dict(run.items() - ordinary.items())) for title, run in variants]
    assert changed == [
        ("rate x 0.5", {"rate": 0.5}),
        ("rate x 2", {"rate": 2.0}),
        ("warm-up in 5 % of the training", {"warm_up": 0.05}),
        ("warm-up in 50 % of the training", {"warm_up": 0.5}),
        ("width x 2", {"width": 2.0}),
        ("the ordinary training", {"network": "vit-coarse"}),
        ("the ordinary training", {"network": "vit-deep"}),
    ]
