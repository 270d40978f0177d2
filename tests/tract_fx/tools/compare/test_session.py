"""A comparison goes on where it was stopped, and reports what it has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tract_fx.tools.compare import session
from tract_fx.tools.compare.session import run_compare
from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.errors import CompareError, JournalError, OutputError
from tract_fx.tools.training.journal import Journal, read


@pytest.fixture
def settings(write_images, tmp_path: Path) -> CompareSettings:
    data = write_images("a", "b", count=10)
    return CompareSettings(
        "compared_models:net",
        data,
        tmp_path / "out",
        minutes=None,
        epochs=2,
        seeds=2,
        lams=(0.1, 0.5),
        batch_size=4,
        input=(3, 8, 8),
        device="cpu",
        threads=1,
        inner="aot_eager",
    )


def numbers(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Losses and accuracies by the name of the run's file."""
    return {
        path.name: [(line["loss"], line["accuracy"]) for line in read(path) if "epoch" in line]
        for path in sorted(folder.glob("*.jsonl"))
    }


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    """As if Ctrl-C were pressed after so many epochs, in the middle of the next one."""
    train, done = session.shuffled, []

    def shuffled(*arguments: object) -> object:
        for number, batch in enumerate(train(*arguments)):
            if number == 1:
                done.append(number)
            if len(done) > epochs and number == 2:
                raise error
            yield batch

    monkeypatch.setattr(session, "shuffled", shuffled)


@pytest.mark.slow
def test_a_whole_comparison(settings, console) -> None:
    """Compiled without code generation: the sides start alike, differ afterwards, and everything is written."""
    outcome = run_compare(settings, console)
    said = console.file.getvalue()
    assert not outcome.interrupted
    assert [path.name for path in outcome.files] == ["comparison.png", "results.json"]
    with Image.open(outcome.files[0]) as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    results = json.loads(outcome.files[1].read_text())
    assert [difference["side"] for difference in results["differences"]] == ["TrAct, lam 0.1", "TrAct, lam 0.5"]
    assert all(len(difference["values"]) == 2 for difference in results["differences"])
    assert results["sentences"][0] in said
    assert results["matches"][0]["weight"] == "0.weight"
    assert (results["plan"], results["stopped"]) == ({"epochs": 2, "steps": 8}, None)
    for sentence in (
        "Reading ",
        "20% of each class are held out",
        "A training step took",
        "TrAct rewrote 0 (convolution",
    ):
        assert sentence in said
    curves = numbers(settings.out)
    assert len(curves) == 6
    assert curves["plain_seed-0.jsonl"] != curves["tract_lam-0.1_seed-0.jsonl"] != curves["tract_lam-0.5_seed-0.jsonl"]
    assert curves["plain_seed-0.jsonl"] != curves["plain_seed-1.jsonl"]
    assert not list(settings.out.glob("*.checkpoint"))


@pytest.mark.usefixtures("uncompiled")
def test_sides_that_do_the_same_have_the_same_numbers(settings, console) -> None:
    """Weights, batches, schedule and the masks of dropout."""
    run_compare(settings, console)
    curves = numbers(settings.out)
    for seed in (0, 1):
        plain, *others = (curve for name, curve in curves.items() if name.endswith(f"seed-{seed}.jsonl"))
        assert all(curve == plain for curve in others)
    assert "No difference that two seeds can show: TrAct, lam 0.1 ends 0.0 points" in console.file.getvalue()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "epochs", [pytest.param(epochs, marks=() if epochs == 7 else pytest.mark.slow) for epochs in (1, 2, 5, 7, 10)]
)
def test_what_was_stopped_ends_as_if_it_had_not_been(settings, console, epochs: int) -> None:
    settings = dataclasses.replace(settings, optimizer="sgd")
    run_compare(dataclasses.replace(settings, out=settings.out.with_name("whole")), console)
    with pytest.MonkeyPatch.context() as patched:
        stop_after(epochs, patched, KeyboardInterrupt)
        outcome = run_compare(settings, console)
    assert outcome.interrupted
    partly = json.loads((settings.out / "results.json").read_text())
    assert partly["stopped"] == "Ctrl-C"
    assert not run_compare(settings, console).interrupted
    assert "Going on with runs of 2 epochs, 8 steps each" in console.file.getvalue()
    assert numbers(settings.out) == numbers(settings.out.with_name("whole"))


@pytest.mark.usefixtures("uncompiled")
def test_stopped_in_the_first_seed_nothing_is_claimed(settings, console, monkeypatch) -> None:
    stop_after(3, monkeypatch, session.OutOfTimeError)
    run_compare(settings, console)
    said = console.file.getvalue()
    assert "Stopped by the time budget with 0 of 2 seeds finished" in said
    assert "No seed is finished: after 1 of 2 epochs nothing can be said of the end" in said


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("stop", "becomes"), [(session.OutOfTimeError, CompareError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_stopped_before_the_first_epoch_there_is_nothing_to_report(
    settings, console, monkeypatch, stop, becomes
) -> None:
    stop_after(0, monkeypatch, stop)
    with pytest.raises(becomes, match=None if becomes is KeyboardInterrupt else "before the end of the first epoch"):
        run_compare(settings, console)


@pytest.mark.usefixtures("uncompiled")
def test_the_time_budget_ends_it(settings, console, monkeypatch) -> None:
    """A clock that jumps: planned for the time that was left, then stopped by it."""
    epochs = []
    note = Journal.epoch
    monkeypatch.setattr(Journal, "epoch", lambda *arguments: (note(*arguments), epochs.append(1)))
    clock = session.time.perf_counter
    monkeypatch.setattr(session.time, "perf_counter", lambda: clock() + (1e9 if len(epochs) >= 8 else 0))
    run_compare(dataclasses.replace(settings, minutes=60.0), console)
    assert len(epochs) == 8
    assert "Stopped by the time budget with 1 of 2 seeds finished; the same command goes on." in console.file.getvalue()


@pytest.mark.usefixtures("uncompiled")
def test_finished_runs_are_read_and_more_seeds_are_added(settings, console, monkeypatch) -> None:
    run_compare(settings, console)
    before = numbers(settings.out)
    with monkeypatch.context() as patched:
        patched.setattr(session, "CompiledSides", None)
        run_compare(settings, console)
    assert "All of these runs are finished" in console.file.getvalue()
    run_compare(dataclasses.replace(settings, seeds=3, epochs=None, minutes=60.0), console)
    after = numbers(settings.out)
    assert len(after) == 9
    assert before.items() <= after.items()
    assert len(after["plain_seed-2.jsonl"]) == 2


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 3}, "epochs was 2, and is 3 now"),
        ({"rate": 0.5}, "rate was 0.001, and is 0.5 now"),
        ({"model": "compared_models:there"}, "model was compared_models:net"),
        ({"amp": True}, "amp was False, and is True now"),
    ],
)
def test_another_comparison_does_not_go_on_in_the_folder(settings, console, changes, said) -> None:
    settings = dataclasses.replace(settings, seeds=1, lams=(0.1,), epochs=1 + ("epochs" in changes))
    run_compare(settings, console)
    with pytest.raises(JournalError, match=f"{said}.*--out"):
        run_compare(dataclasses.replace(settings, **changes), console)


@pytest.mark.usefixtures("uncompiled")
def test_a_model_of_which_nothing_is_rewritten_is_no_comparison(settings, console, monkeypatch) -> None:
    monkeypatch.setattr(session.CompiledSides, "matches", ())
    with pytest.raises(CompareError, match=r"rewrites no layer of it.*tract-fx explain compared_models:net"):
        run_compare(settings, console)


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_read(settings, console) -> None:
    settings.out.mkdir()
    (settings.out / "results.json").mkdir()
    with pytest.raises(OutputError, match=r"results\.json: cannot be written"):
        run_compare(dataclasses.replace(settings, model="nothing", data=Path("none")), console)


@pytest.mark.usefixtures("uncompiled")
def test_fewer_images_than_a_batch_are_one_batch(settings, console) -> None:
    run_compare(dataclasses.replace(settings, batch_size=1000, seeds=1), console)
    assert "batches of 16" in console.file.getvalue()
    assert json.loads((settings.out / "results.json").read_text())["plan"]["steps"] == 2
