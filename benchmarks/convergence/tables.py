"""Tables of the recorded runs in Markdown, for `python -m benchmarks.report`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.convergence.experiments import (
    ABLATIONS,
    HABITS,
    LATE,
    NOISES,
    ONE_EACH,
    RATES,
    SCALE_SIDES,
    SCALES,
    SETTINGS,
    SIDES,
    STRONG,
    WHITENING_LAMS,
    WHITENING_OTHERS,
    WHITENING_PARTS,
)
from benchmarks.convergence.inputs import CONTRASTS
from benchmarks.convergence.many_models import MODELS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import SIZES
from benchmarks.convergence.summary import Need, Result, Results, load_results, mean_and_deviation, needs
from benchmarks.markdown import table

__all__ = ["TABLES", "all_results", "title_of"]

Pair = tuple[Result, Result]


def all_results() -> list[Results]:
    """Of every size that there is anything of."""
    return [results for results in map(load_results, SIZES) if results]


def speedup() -> str:
    """Accuracies at each budget, and what TrAct needs for the plain one."""
    rows = []
    for results in all_results():
        for network, optimizer in SETTINGS:
            for need in needs(results, network, optimizer):
                epochs = "-" if all(need.at_most) and need.epochs == results.size.budgets[0] else _epochs(need)
                time = [share * need.seconds / need.epochs for share in need.epochs_needed]
                rows.append(
                    (
                        title_of(results, network, optimizer),
                        need.epochs,
                        len(need.plain),
                        _accuracy(need.plain),
                        _accuracy(need.tract),
                        _difference(need.plain, need.tract),
                        epochs,
                        "-" if epochs == "-" else _range(time, "{:.2f}"),
                    )
                )
    heads = ("network", "epochs", "seeds", "plain", "TrAct", "difference", "epochs TrAct needs", "of plain's time")
    return _table(heads, rows)


def readme() -> str:
    """The largest budget of each setting, for the README."""
    rows = []
    for results in all_results():
        for network, optimizer in SETTINGS:
            if found := needs(results, network, optimizer):
                last = found[-1]
                title = title_of(results, network, optimizer)
                accuracies = _accuracy(last.plain), _accuracy(last.tract), _difference(last.plain, last.tract)
                rows.append((title, last.epochs, len(last.plain), *accuracies))
    return _table(("network", "epochs", "seeds", "plain", "TrAct", "difference"), rows)


def lam() -> str:
    """Differences to plain training for every ``lam``."""
    values = sorted({value for results in all_results() for value in results.size.lams})
    rows = []
    for results in all_results():
        for network, optimizer in ONE_EACH:
            for width in sorted((1.0, *results.size.widths)):
                run = Run(network, optimizer, results.size.budgets[0], "tract", 0, width=width)
                pairs = [results.pairs(dataclasses.replace(run, lam=value)) for value in values]
                if any(pairs):
                    plain = results.of(dataclasses.replace(run, method="plain"))
                    cells = (_pair_difference(found) for found in pairs)
                    title = f"{title_of(results, network, optimizer)}, width {width:g}"
                    rows.append((title, max(map(len, pairs)), _accuracy([r.accuracy for r in plain]), *cells))
    return _table(("network", "seeds", "plain", *(f"{value:g}" for value in values)), rows)


def contrast() -> str:
    """Accuracies by planted contrast."""
    rows = []
    for results in all_results():
        for network, optimizer in ONE_EACH:
            for noise in NOISES:
                run = Run(network, optimizer, results.size.budgets[0], "tract", 0, inputs="contrast", noise=noise)
                pairs = results.pairs(run)
                if pairs:
                    cells = (_contrast_cell(pairs, place) for place in range(len(CONTRASTS)))
                    rows.append((title_of(results, network, optimizer), f"{noise:g}", len(pairs), *cells))
    return _table(("network", "noise", "seeds", *(f"contrast {value:g}" for value in CONTRASTS)), rows)


def inputs() -> str:
    """Augmentations, as plain accuracy and what TrAct adds."""
    return _plain_and_tract([(name, {"augmentation": name}) for name in STRONG])


def scales() -> str:
    """Scales of the input with ``lam`` absolute and relative."""
    rows = []
    for results in all_results():
        for network, optimizer in ONE_EACH:
            for scale in SCALES:
                run = Run(network, optimizer, results.size.budgets[0], "plain", 0, inputs=scale)
                sides = [results.pairs(dataclasses.replace(run, method=method)) for method in SCALE_SIDES[1:]]
                if any(sides):
                    plain = [result.accuracy for result in results.of(run)]
                    cells = (_pair_difference(pairs) for pairs in sides)
                    title = title_of(results, network, optimizer)
                    rows.append((title, scale, max(map(len, sides)), _accuracy(plain), *cells))
    return _table(("network", "input", "seeds", "plain", "`lam` absolute", "`lam` relative"), rows)


def late() -> str:
    """TrAct in parts of the longest training."""
    rows = []
    for results in all_results():
        for method in LATE:
            run = Run("resnet", "sgd", results.size.budgets[-1], method, 0)
            rows += [(row[0], run.epochs, *row[1:]) for row in _ablation(results, run, METHOD_TITLES[method])]
    return _table(("network", "epochs", "first layer", "seeds", "plain", "accuracy", "difference"), rows)


def habits() -> str:
    """What TrAct gains with and without what trainers do; both sides do it."""
    rows = []
    for results in all_results():
        run = Run("resnet", "sgd", results.size.budgets[-1], "plain", 0)
        for habit in HABITS:
            plain, tract = (dataclasses.replace(run, method=f"{side}-{habit}") for side in SIDES)
            rows += [(row[0], run.epochs, *row[1:]) for row in _ablation(results, tract, HABIT_TITLES[habit], plain)]
        if rows:
            tract = dataclasses.replace(run, method="tract")
            rows += [(row[0], run.epochs, *row[1:]) for row in _ablation(results, tract, "neither")]
    return _table(("network", "epochs", "", "seeds", "plain", "TrAct", "difference"), rows)


def rates() -> str:
    """Both sides at other learning rates."""
    return _plain_and_tract([(f"rate x {factor:g}", {"rate": factor}) for factor in RATES], SETTINGS)


def ablations() -> str:
    """Alternatives and parts of TrAct, as differences to plain training."""
    rows = []
    for results in all_results():
        budget = results.size.budgets[0]
        for network, optimizer in ONE_EACH:
            for method in ABLATIONS[1:]:
                rows += _ablation(results, Run(network, optimizer, budget, method, 0), METHOD_TITLES[method])
            for method in ("plain", "tract"):
                run = Run(network, optimizer, budget, method, 0, inputs="zca")
                plain = dataclasses.replace(run, method="plain", inputs="standardised")
                rows += _ablation(results, run, f"{INPUT_TITLES['zca']}, {METHOD_TITLES[method]}", plain)
        for network in ("resnet", "vit"):
            for method in ("tract", "plain-sgd-first", "tract-sgd-first"):
                if network == "resnet" or method != "tract":
                    rows += _ablation(results, Run(network, "adam", budget, method, 0), METHOD_TITLES[method])
    return _table(("network", "first layer", "seeds", "plain", "accuracy", "difference"), rows)


def whitening() -> str:
    """The parts of whitening by ``lam``, as differences to plain training."""
    rows = []
    for results, run in _whitening_runs():
        plain = _accuracy([result.accuracy for result in results.of(run)])
        for method in WHITENING_PARTS:
            pairs = [results.pairs(dataclasses.replace(run, method=method, lam=value)) for value in WHITENING_LAMS]
            if any(pairs):
                cells = (f"{_pair_difference(found)} ({len(found)})" if found else "-" for found in pairs)
                rows.append((run.epochs, plain, METHOD_TITLES[method], *cells))
    return _table(("epochs", "plain", "first layer", *(f"{value:g}" for value in WHITENING_LAMS)), rows)


def whitened_inputs() -> str:
    """Whitened images and frozen layers, as differences to plain training on ordinary images."""
    rows = []
    for results, run in _whitening_runs():
        for method, inputs in WHITENING_OTHERS:
            other = dataclasses.replace(run, method=method, inputs=inputs)
            title = (
                METHOD_TITLES[method] if inputs == Run.inputs else f"{INPUT_TITLES[inputs]}, {METHOD_TITLES[method]}"
            )
            rows += [(run.epochs, *row[1:]) for row in _ablation(results, other, title, run)]
    return _table(("epochs", "first layer", "seeds", "plain", "accuracy", "difference"), rows)


def whitening_answer() -> str:
    """A sentence for each budget: what each part of whitening gains over plain training."""
    sentences = []
    for results, run in _whitening_runs():
        gains = []
        for method, inputs, words in ANSWER:
            other = dataclasses.replace(run, method=method, inputs=inputs)
            if pairs := results.matched(run, other):
                gains.append(f"{words} {_pair_difference(pairs)}")
        sentences.append(f"After {run.epochs} epochs, in points over plain training: {', '.join(gains)}.\n")
    return "\n".join(sentences) or "Not run yet.\n"


def _whitening_runs() -> list[tuple[Results, Run]]:
    """The plain run of each budget at which whitening was taken apart."""
    return [
        (results, Run("resnet", "sgd", results.size.budgets[place], "plain", 0))
        for results in all_results()
        for place in (0, -1)
        if results.of(Run("resnet", "sgd", results.size.budgets[place], "tract-dataset", 0))
    ]


def many() -> str:
    """Architectures, and a line that counts them."""
    rows, differences = [], []
    for results in all_results():
        for network, architecture in MODELS.items():
            run = Run(network, architecture.optimizer, results.size.budgets[0], "tract", 0)
            if pairs := results.pairs(run):
                plain, tract = _accuracies(pairs)
                differences.append(statistics.fmean(tract) - statistics.fmean(plain))
                title = f"{network}, {_optimizer(architecture.optimizer)}"
                rows.append((title, len(pairs), _accuracy(plain), _accuracy(tract), _difference(plain, tract)))
    better = sum(difference > 0 for difference in differences)
    count = f"\nTrAct is better in {better} of {len(rows)}.\n" if rows else ""
    return _table(("network", "seeds", "plain", "TrAct", "difference"), rows) + count


def conditions() -> str:
    """What was run and on what, from the files themselves."""
    sentences = []
    for results in all_results():
        found, size = list(results), results.size
        images = found[0].images
        machines = sorted({result.environment.get("gpu") or result.environment["cpu"] for result in found})
        versions = sorted({result.environment["torch"] for result in found})
        sentences.append(
            f"Size `{size.name}`: {images['train']:,} training and {images['test']:,} test images of {images['name']}, "
            f"batches of {size.batch}, {'bfloat16' if size.bfloat16 else 'float32'}, crops and flips; {len(found)} runs "
            f"on {', '.join(machines)} with torch {', '.join(versions)}.\n"
        )
    return "".join(sentences)


def summary() -> str:
    """One sentence: where TrAct helped, by how much, where it did not."""
    parts, without = [], []
    for results in all_results():
        for network, optimizer in SETTINGS:
            if rows := needs(results, network, optimizer):
                last, title = rows[-1], f"the {title_of(results, network, optimizer)}"
                gain = 100 * (statistics.fmean(last.tract) - statistics.fmean(last.plain))
                if all(needed < last.epochs for needed in last.epochs_needed):
                    reached = _range([needed / last.epochs for needed in last.epochs_needed], "{:.2f}")
                    parts.append(f"{reached} of the epochs for {title} ({gain:+.1f} points at {last.epochs} epochs)")
                else:
                    without.append(f"{title} ({gain:+.1f} points at {last.epochs} epochs)")
    sentence = "TrAct had the accuracy of plain training after " + "; ".join(parts) if parts else ""
    if without:
        sentence += ("; it" if parts else "TrAct") + " did not have it sooner with every seed for " + "; ".join(without)
    return f"{sentence}.\n" if sentence else ""


TABLES: dict[str, Callable[[], str]] = {
    "convergence_summary": summary,
    "convergence_conditions": conditions,
    "convergence_readme": readme,
    "convergence_speedup": speedup,
    "convergence_lambda": lam,
    "convergence_contrast": contrast,
    "convergence_inputs": inputs,
    "convergence_scales": scales,
    "convergence_late": late,
    "convergence_habits": habits,
    "convergence_ablations": ablations,
    "convergence_whitening": whitening,
    "convergence_whitening_answer": whitening_answer,
    "convergence_whitened_inputs": whitened_inputs,
    "convergence_many": many,
    "convergence_rates": rates,
}


def title_of(results: Results, network: str, optimizer: str) -> str:
    """Network and optimiser in words."""
    return f"{results.size.titles[network]}, {_optimizer(optimizer)}"


METHOD_TITLES = {
    "plain": "plain",
    "tract": "TrAct",
    "patchnorm": "normalised patches",
    "dualpatchnorm": "DualPatchNorm",
    "plain-sgd-first": "plain, SGD for the first layer",
    "tract-sgd-first": "TrAct, SGD for the first layer",
    "tract-first-third": "TrAct in the first third only",
    "tract-running": "TrAct, running average of the covariance",
    "plain-8": "plain, in 8 parts of the batch",
    "tract-8-local": "TrAct, 8 parts with covariances of their own",
    "tract-8-shared": "TrAct, 8 parts with one covariance",
    "tract-first-half": "TrAct in the first half only",
    "tract-rising": "TrAct, `lam` from 0.05 to 0.2 by `CosineLam`",
    "tract-dataset": "gradient of whitening: TrAct, covariance of all patches",
    "whitened": "gradient and start: whitened patches",
    "whitened-start": "start of whitening alone",
    "frozen": "first layer frozen, random",
    "frozen-eigenvectors": "first layer frozen, eigenvectors of all patches",
}

ANSWER = (
    ("tract", Run.inputs, "TrAct"),
    ("tract-dataset", Run.inputs, "the gradient of whitening alone"),
    ("whitened-start", Run.inputs, "its start alone"),
    ("whitened", Run.inputs, "both"),
    ("plain", "zca3", "images whitened by a 3x3 filter"),
    ("plain", "zca9", "by a 9x9 filter"),
    ("plain", "zca", "over the whole image"),
)
"""Method, inputs and words of the sentence on whitening."""

HABIT_TITLES = {"no-decay": "no weight decay for the first layer", "clip": "gradients clipped to norm 1"}

INPUT_TITLES = {
    "zca": "ZCA-whitened images",
    "zca9": "images whitened by a 9x9 filter",
    "zca3": "images whitened by a 3x3 filter",
}


def _table(heads: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    return table(heads, rows) if rows else "Not run yet.\n"


def _plain_and_tract(kinds: Sequence[tuple[str, dict]], settings: Iterable[tuple[str, str]] = ONE_EACH) -> str:
    rows = []
    for results in all_results():
        for network, optimizer in settings:
            for title, fields in kinds:
                pairs = results.pairs(Run(network, optimizer, results.size.budgets[0], "tract", 0, **fields))
                if pairs:
                    plain, tract = _accuracies(pairs)
                    cells = (_accuracy(plain), _accuracy(tract), _difference(plain, tract))
                    rows.append((title_of(results, network, optimizer), title, len(pairs), *cells))
    return _table(("network", "", "seeds", "plain", "TrAct", "difference"), rows)


def _ablation(results: Results, run: Run, title: str, plain: Run | None = None) -> list[tuple[object, ...]]:
    pairs = results.matched(plain or dataclasses.replace(run, method="plain"), run)
    if not pairs:
        return []
    before, after = _accuracies(pairs)
    name = title_of(results, run.network, run.optimizer)
    return [(name, title, len(pairs), _accuracy(before), _accuracy(after), _difference(before, after))]


def _accuracies(pairs: Sequence[Sequence[Result]]) -> tuple[list[float], list[float]]:
    return [first.accuracy for first, _ in pairs], [second.accuracy for _, second in pairs]


def _optimizer(name: str) -> str:
    return "SGD" if name == "sgd" else "Adam"


def _accuracy(values: Sequence[float]) -> str:
    """Mean and sample standard deviation in percent."""
    mean, deviation = mean_and_deviation([100 * value for value in values])
    return f"{mean:.1f} %" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f} %"


def _difference(before: Sequence[float], after: Sequence[float]) -> str:
    """Mean and sample standard deviation of the differences seed by seed, in percentage points."""
    mean, deviation = mean_and_deviation([100 * (b - a) for a, b in zip(before, after, strict=True)])
    return f"{mean:+.1f}" if math.isnan(deviation) else f"{mean:+.1f} ± {deviation:.1f}"


def _pair_difference(pairs: Sequence[Pair]) -> str:
    return _difference(*_accuracies(pairs)) if pairs else "-"


def _contrast_cell(pairs: Sequence[Pair], place: int) -> str:
    plain = [first.by_contrast[place] for first, _ in pairs]
    tract = [second.by_contrast[place] for _, second in pairs]
    return f"{100 * statistics.fmean(plain):.1f} %, {_difference(plain, tract)}"


def _epochs(need: Need) -> str:
    bound = "at most " if any(need.at_most) else ""
    return bound + _range(need.epochs_needed, "{:.1f}")


def _range(values: Sequence[float], form: str) -> str:
    """Median, then smallest and largest."""
    words = ["more" if value == math.inf else form.format(value) for value in sorted(values)]
    middle = statistics.median(values)
    middle = "more" if middle == math.inf else form.format(middle)
    return middle if words[0] == words[-1] else f"{middle} ({words[0]} to {words[-1]})"
