"""Tables and pictures say what the runs' files say."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import scipy.stats

from benchmarks.convergence import answers, coverage, figures, tables, words
from benchmarks.convergence.experiments import EXPERIMENTS, with_batch
from benchmarks.convergence.inputs import CONTRASTS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import SIZES
from benchmarks.convergence.summary import (
    Results,
    accuracy_after,
    best_known,
    epochs_to_reach,
    load_results,
    mean_and_deviation,
    needs,
    result_of,
)

SMALL = SIZES["small"]


def test_epochs_between_budgets_are_linear_in_the_logarithm() -> None:
    budgets, accuracies = (4, 8, 16), (0.5, 0.6, 0.7)
    assert epochs_to_reach(0.6, budgets, accuracies) == pytest.approx(8)
    assert epochs_to_reach(0.65, budgets, accuracies) == pytest.approx(8 * math.sqrt(2))
    assert epochs_to_reach(0.4, budgets, accuracies) == 4
    assert epochs_to_reach(0.71, budgets, accuracies) == math.inf
    assert epochs_to_reach(0.6, budgets, (0.5, 0.4, 0.6)) == pytest.approx(16), (
        "an accuracy that falls again counts later"
    )


def test_accuracy_between_budgets_is_what_epochs_to_reach_inverts() -> None:
    budgets, accuracies = (4, 8, 16), (0.5, 0.6, 0.7)
    for accuracy in (0.5, 0.53, 0.6, 0.68, 0.7):
        assert accuracy_after(epochs_to_reach(accuracy, budgets, accuracies), budgets, accuracies) == pytest.approx(
            accuracy
        )
    assert math.isnan(accuracy_after(3.9, budgets, accuracies))


def write(folder: Path, run: Run, accuracy: float, seconds: float = 2.0, **more: object) -> None:
    first = {"run": run.record(), "steps": None, "images": {"name": "set", "train": 10_000, "test": 5_000},
             "environment": {"cpu": "a processor", "torch": "2.15"}}  # fmt: skip
    epochs = [
        {"epoch": number, "loss": 1.0, "seconds": 9.0, "processor_seconds": 100.0 if number == 1 else seconds}
        for number in range(1, run.epochs + 1)
    ]
    epochs[-1] |= {"accuracy": accuracy, **more}
    path = folder / "small" / f"{run.name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [first, *epochs, {"finished": True, "steps": 1}]))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """TrAct one budget ahead of plain training, at half as much again for each epoch."""
    for seed in (0, 1, 2):
        for place, budget in enumerate(SMALL.budgets):
            write(tmp_path, Run("resnet", "sgd", budget, "plain", seed), 0.5 + 0.1 * place + 0.02 * seed)
            write(tmp_path, Run("resnet", "sgd", budget, "tract", seed), 0.6 + 0.1 * place + 0.02 * seed, seconds=3.0)
    for method, shares in (("plain", (0.1, 0.2, 0.3, 0.4, 0.5)), ("tract", (0.2, 0.3, 0.4, 0.5, 0.6))):
        run = Run("vit", "adam", SMALL.budgets[0], method, 0, inputs="contrast", noise=0.3)
        write(tmp_path, run, 0.3, by_contrast=shares)
    write(tmp_path, Run("resnet", "sgd", SMALL.budgets[0], "tract", 1, lam=0.4), 0.57)
    found = load_results("small", tmp_path)
    monkeypatch.setattr(tables, "all_results", lambda: [found])
    return found


def test_what_tract_needs(results: Results) -> None:
    first, second, third = needs(results, "resnet", "sgd")
    assert first.at_most == (True, True, True)
    assert second.epochs_needed == pytest.approx((3, 3, 3))
    assert third.epochs_needed == pytest.approx((6, 6, 6))
    assert third.ratio == pytest.approx(1.5)
    assert third.in_time == pytest.approx([0.8 - 0.1 * math.log2(1.5) + 0.02 * seed for seed in (0, 1, 2)])
    assert all(map(math.isnan, first.in_time)), "a shorter training than the smallest budget is not known"
    assert needs(results, "vit", "adam") == []


def test_the_first_epoch_which_compiles_does_not_count() -> None:
    first = {"run": Run("vit", "adam", 3, "plain", 0).record(), "steps": None, "images": {}, "environment": {}}
    epochs = [{"epoch": 1 + place, "processor_seconds": seconds} for place, seconds in enumerate((100.0, 1.0, 3.0))]
    epochs[-1]["accuracy"] = 0.5
    assert result_of([first, *epochs, {"finished": True}]).epoch_seconds == 1.0
    first["environment"] = {"gpu": "one"}
    for line in epochs:
        line["seconds"] = 2 * line["processor_seconds"]
    assert result_of([first, *epochs, {"finished": True}]).epoch_seconds == 2.0, "by the clock on a GPU"


def test_a_run_that_has_just_begun_is_no_result() -> None:
    """Its file has one line until the first epoch is over; tables can be made meanwhile."""
    first = {"run": Run("vit", "adam", 3, "plain", 0).record(), "steps": None, "images": {}, "environment": {}}
    assert result_of([first]) is None
    assert result_of([first, {"epoch": 1, "processor_seconds": 1.0}]) is None


def test_the_table_of_speed(results: Results) -> None:
    last = tables.speedup().splitlines()[-1]
    assert last == "| small ResNet, SGD | 12 | 3 | 72.0 ± 2.0 % | 82.0 ± 2.0 % | **+10.0 ± 0.0** | 6.0 |"
    last = tables.time().splitlines()[-1]
    assert last == "| small ResNet, SGD | 12 | 24 s | 36 s | +10.0 ± 0.0 | +4.2 ± 0.0 | 0.75 |"
    words = (
        "small ResNet, SGD +10.0 ± 0.0 points in 12 epochs (plain training's accuracy after 0.50 of its epochs, 0.75 of"
    )
    assert words in answers.in_short([results])
    assert "+17" not in answers.time([results])
    assert "an epoch takes +50 %" in answers.time([results])


def test_a_seed_is_compared_over_the_budgets_that_it_has(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed with the smallest budget alone: a pair more there, and nothing known of what it needs."""
    for budget in SMALL.budgets[1:]:
        for method in ("plain", "tract"):
            (tmp_path / "small" / f"{Run('resnet', 'sgd', budget, method, 2).name}.jsonl").unlink()
    found = load_results("small", tmp_path)
    monkeypatch.setattr(tables, "all_results", lambda: [found])
    first, second, third = needs(found, "resnet", "sgd")
    assert [len(need.pairs) for need in (first, second, third)] == [3, 2, 2]
    assert third.epochs_needed == pytest.approx((6, 6))
    assert first.is_bound
    assert not third.is_bound
    assert best_known([first, second, third]) is first, "three seeds before a larger budget"
    assert best_known([second, third]) is third
    assert best_known([]) is None
    assert tables.readme().splitlines()[-1].startswith("| small ResNet, SGD | 3 | 3 |")


def test_times_are_compared_on_one_processor(tmp_path: Path, results: Results) -> None:
    """One side of a seed was run on a faster processor: that pair says nothing of the ratio."""
    for path in (tmp_path / "small").glob("*_tract_seed1.jsonl"):
        path.write_text(path.read_text().replace("a processor", "another").replace("3.0", "0.5"))
    assert needs(load_results("small", tmp_path), "resnet", "sgd")[0].ratio == pytest.approx(1.5)


def test_the_summary_says_where_there_is_no_gain(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for budget in SMALL.budgets:
        write(tmp_path, Run("vit", "adam", budget, "plain", 0), 0.5)
        write(tmp_path, Run("vit", "adam", budget, "tract", 0), 0.4)
    found = load_results("small", tmp_path)
    monkeypatch.setattr(tables, "all_results", lambda: [found])
    short = answers.in_short([found])
    assert "**No gain that the seeds show:** small ViT, Adam -10.0 points in 12 epochs." in short
    assert "small ViT, Adam: -10.0 at 3, -10.0 at 6 and -10.0 at 12 epochs (but not" in answers.speedup([found])
    assert tables.speedup().splitlines()[-1].endswith("| -10.0 | more |")


def test_the_table_of_lam_has_a_cell_for_what_was_run(results: Results) -> None:
    row = tables.lam().splitlines()[-1].split(" | ")
    heads = tables.lam().splitlines()[0].split(" | ")
    assert row[heads.index("0.1")] == "**+10.0 ± 0.0**"
    assert row[heads.index("0.4")] == "+5.0", "one seed only, paired with the plain run of that seed"
    assert row[heads.index("0.2")] == "-"


def test_the_table_of_contrast(results: Results) -> None:
    row = tables.contrast().splitlines()[-1]
    assert row.startswith("| small ViT, Adam | 0.3 | 1 | 10.0 %, +10.0 | 20.0 %, +10.0 |")
    assert len(CONTRASTS) == 5


def test_the_parts_of_whitening_are_compared_with_plain_training_of_their_budget(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        write(tmp_path, Run("resnet", "sgd", 12, "tract-dataset", seed, lam=0.01), 0.75 + 0.03 * seed)
    write(tmp_path, Run("resnet", "sgd", 12, "tract-dataset", 0), 0.72)
    write(tmp_path, Run("resnet", "sgd", 12, "plain", 1, inputs="zca9"), 0.74)
    write(tmp_path, Run("resnet", "sgd", 12, "frozen", 1), 0.7)
    found = load_results("small", tmp_path)
    monkeypatch.setattr(tables, "all_results", lambda: [found])
    rows = tables.whitening().splitlines()
    assert rows[2].startswith("| 12 | 72.0 ± 2.0 % | TrAct |")
    assert rows[2].endswith("| **+10.0 ± 0.0** (3) | - | - | - |")
    assert rows[3].startswith("| 12 | 72.0 ± 2.0 % | gradient of whitening")
    assert rows[3].endswith("| +2.0 (1) | +5.5 ± 0.7 (2) | - | - |")
    rows = tables.differences("whitened_inputs", "first layer", "plain", "accuracy").splitlines()
    assert "| small ResNet, SGD | plain on images whitened by a 9x9 filter | 1 | 72.0 % | 74.0 % | +2.0 |" in rows
    assert "| small ResNet, SGD | first layer frozen at random filters | 1 | 72.0 % | 70.0 % | -2.0 |" in rows
    assert answers.whitening([found]) == (
        "After 12 epochs, in points over plain training: TrAct +10.0 ± 0.0, the gradient of whitening alone +2.0, "
        "by a 9x9 filter +2.0, a first layer frozen at random filters -2.0.\n"
    )
    figures.draw(found, tmp_path)
    assert (tmp_path / "convergence_small_whitening.png").exists()


def test_tables_of_scales_of_late_training_and_of_habits(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, accuracy in (("plain", 0.5), ("tract", 0.4), ("tract-relative", 0.6)):
        write(tmp_path, Run("resnet", "sgd", 3, method, 0, inputs="raw"), accuracy)
    for method, accuracy in (("plain", 0.7), ("tract", 0.8), ("tract-first-half", 0.73)):
        write(tmp_path, Run("resnet", "sgd", 20, method, 0), accuracy)
    for method, accuracy in (("plain-clip", 0.6), ("tract-clip", 0.65)):
        write(tmp_path, Run("resnet", "sgd", 12, method, 0), accuracy)
    found = load_results("small", tmp_path)
    monkeypatch.setattr(tables, "all_results", lambda: [found])
    rows = tables.differences("inputs", "input", "plain", "TrAct").splitlines()
    assert rows[-2:] == [
        "| small ResNet, SGD | 0..255 with absolute `lam` | 1 | 50.0 % | 40.0 % | -10.0 |",
        "| small ResNet, SGD | 0..255 with relative `lam` | 1 | 50.0 % | 60.0 % | +10.0 |",
    ]
    write(tmp_path, with_batch(Run("resnet", "sgd", 3, "plain-4", 0), SMALL, 4), 0.5)
    write(tmp_path, with_batch(Run("resnet", "sgd", 3, "tract-4-local", 0), SMALL, 4), 0.4)
    found = load_results("small", tmp_path)
    rows = tables.differences("harm", "", "plain", "TrAct").splitlines()
    assert rows[2:] == [
        "| small ResNet, SGD | 20 | TrAct | 1 | 70.0 % | 80.0 % | +10.0 |",
        "| small ResNet, SGD | 20 | TrAct in the first half only | 1 | 70.0 % | 73.0 % | +3.0 |",
        "| small ResNet, SGD | 12 | gradients clipped to norm 1 | 1 | 60.0 % | 65.0 % | +5.0 |",
        "| small ResNet, SGD | 3 | batch 128 | 3 | 52.0 ± 2.0 % | 62.0 ± 2.0 % | **+10.0 ± 0.0** |",
        "| small ResNet, SGD | 3 | batch 512 accumulated from 4 of 128 | 1 | 50.0 % | 40.0 % | -10.0 |",
    ]
    assert answers.sorted_out("late")([found]) == ("small ResNet, SGD: 2 with fewer than three seeds.\n")


def test_every_table_and_picture_can_be_made(results: Results, tmp_path: Path) -> None:
    assert all(render().strip() for render in tables.TABLES.values())
    assert f"{len(list(results))} runs on a processor with torch 2.15" in tables.conditions()
    assert tables.TABLES["convergence_many"]() == "Not run yet.\n"
    assert tables.TABLES["convergence_many_answer"]() == "Not run yet.\n"
    assert tables.TABLES["convergence_ablations"]() == "Not run yet.\n", "TrAct as everywhere answers no other question"
    figures.draw(results, tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {f"convergence_small_{name}.png" for name in ("speedup", "time", "lambda", "contrast")}


def test_a_picture_leaves_out_a_budget_that_was_not_run(tmp_path: Path) -> None:
    for method in ("plain", "tract"):
        for budget in SMALL.budgets[:2]:
            write(tmp_path, Run("resnet", "sgd", budget, method, 0), 0.5)
    (axes,) = figures.speedup(load_results("small", tmp_path)).axes
    assert [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) > 1] == [[3, 6], [3, 6]]


def test_every_run_of_every_experiment_has_a_file_of_its_own() -> None:
    runs = {run for size in SIZES.values() for item in EXPERIMENTS.values() for run in item.all_runs(size, [0, 1, 2])}
    assert len({run.name for run in runs}) == len(runs)


def test_names_change_with_every_field() -> None:
    run = Run("resnet", "sgd", 3, "tract", 0)
    changes = {"network": "vit", "optimizer": "adam", "epochs": 6, "method": "plain", "seed": 1, "lam": 0.2, "width": 2.0,
               "rate": 4.0, "inputs": "raw", "augmentation": "none", "noise": 0.3, "batch": 64,
               "warm_up": 0.5}  # fmt: skip
    assert set(changes) == {field.name for field in dataclasses.fields(Run)}
    names = {dataclasses.replace(run, **{key: value}).name for key, value in changes.items()}
    assert len(names | {run.name}) == len(changes) + 1


def test_a_single_value_has_no_deviation() -> None:
    mean, deviation = mean_and_deviation([0.4])
    assert mean == 0.4
    assert math.isnan(deviation)


def pairs_of(tmp_path: Path, differences: list[float], plain: float = 0.5) -> list:
    for seed, difference in enumerate(differences):
        write(tmp_path, Run("resnet", "sgd", 3, "plain", seed), plain + 0.01 * seed)
        write(tmp_path, Run("resnet", "sgd", 3, "tract", seed), plain + 0.01 * seed + difference)
    return load_results("small", tmp_path).pairs(Run("resnet", "sgd", 3, "tract", 0))


@pytest.mark.parametrize("differences", [[0.02, 0.03, 0.022], [0.02, 0.05, 0.01], [-0.02, -0.03, -0.022], [0.02]])
def test_a_difference_is_clear_where_students_test_says_so(differences: list[float], tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, differences)
    expected = len(differences) > 1 and bool(scipy.stats.ttest_1samp(differences, 0).pvalue < 0.05)
    assert words.is_clear(pairs) == expected
    assert words.is_gain(pairs) == (expected and sum(differences) > 0)
    assert words.is_loss(pairs) == (expected and sum(differences) < 0)
    assert words.marked(pairs).startswith("**") == expected


def test_two_seeds_show_nothing(tmp_path: Path) -> None:
    differences = [0.02, 0.0201]
    assert scipy.stats.ttest_1samp(differences, 0).pvalue < 0.01
    assert not words.is_clear(pairs_of(tmp_path, differences))


def test_the_sign_test() -> None:
    for wins, of in ((0, 5), (3, 5), (9, 14), (14, 14), (7, 14)):
        assert answers.sign_test(wins, of) == pytest.approx(scipy.stats.binomtest(wins, of).pvalue)


def test_the_count_of_architectures(tmp_path: Path) -> None:
    for network, difference in (("vgg", 0.1), ("regnet", -0.02), ("densenet", 0.01), ("resnext", 0.0004)):
        write(tmp_path, Run(network, "sgd", 3, "plain", 0), 0.5)
        write(tmp_path, Run(network, "sgd", 3, "tract", 0), 0.5 + difference)
    assert answers.many([load_results("small", tmp_path)]) == (
        "TrAct is better in 2 of 4 architectures and worse in 1, 1 level (one seed each; sign test over them, p = 1), by "
        "+2.2 ± 5.3 points on average.\n"
    )


def test_the_best_rate_of_tract_is_said_where_all_were_run(tmp_path: Path) -> None:
    for rate, plain in ((0.25, 0.3), (0.5, 0.4), (1.0, 0.45), (2.0, 0.5), (4.0, 0.2)):
        write(tmp_path, Run("resnet", "sgd", 3, "plain", 0, rate=rate), plain)
    write(tmp_path, Run("resnet", "sgd", 3, "tract", 0), 0.52)
    said = "small ResNet, SGD: TrAct at the rate of plain training is +2.0 points from plain training at the best of these "
    assert answers.rates([load_results("small", tmp_path)]) == f"{said}rates for it, x 2.\n"
    for rate, tract in ((0.25, 0.3), (0.5, 0.4), (2.0, 0.45), (4.0, 0.55)):
        write(tmp_path, Run("resnet", "sgd", 3, "tract", 0, rate=rate), tract)
    assert answers.rates([load_results("small", tmp_path)]) == f"{said}rates for it, x 2; the best for TrAct is x 4.\n"


def test_what_was_not_run_is_counted(results: Results) -> None:
    rows = {row.split(" | ")[0]: row for row in coverage.coverage([results]).splitlines()[2:]}
    assert rows["| `speedup`"] == "| `speedup` | small | 18 | 6 | 0 | 12 | 6 resnet adam, 6 vit adam |"
    assert rows["| `batch`"].startswith("| `batch` | small | 12 | 2 | 0 | 10 |")
    assert len(rows) == len(EXPERIMENTS)


def test_all_comparisons_are_counted(tmp_path: Path) -> None:
    pairs_of(tmp_path, [0.02, 0.03, 0.022])
    short = answers.in_short([load_results("small", tmp_path)])
    assert (
        "of 1 with three seeds, in which everything but TrAct is the same, 1 show a gain, 0 a loss, and 0 no" in short
    )
