"""Tables of the recorded runs in Markdown, for `python -m benchmarks.report`.

A difference that the seeds show, see `words.is_clear`, is in bold type.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.convergence import answers, coverage, words
from benchmarks.convergence.comparisons import Found, found
from benchmarks.convergence.experiments import NOISES, ONE_EACH, SETTINGS, WHITENING_LAMS, WHITENING_PARTS
from benchmarks.convergence.inputs import CONTRASTS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.summary import Need, Result, Results, all_results, best_known, needs
from benchmarks.markdown import table

__all__ = ["TABLES"]

Pair = tuple[Result, Result]


def speedup() -> str:
    """Accuracies at each budget, and what TrAct needs for the plain one."""
    rows = [
        (
            title,
            need.epochs,
            len(need.plain),
            words.accuracy(need.plain),
            words.accuracy(need.tract),
            words.marked(need.pairs),
            _epochs(need),
        )
        for title, need in _needs()
    ]
    return _table(("network", "epochs", "seeds", "plain", "TrAct", "difference", "epochs TrAct needs"), rows)


def time() -> str:
    """What the same budgets take, and what TrAct has in the time of plain training."""
    rows = []
    for title, need in _needs():
        ahead = "-" if any(map(math.isnan, need.in_time)) else words.difference(need.plain, need.in_time)
        share = [need.ratio * epochs / need.epochs for epochs in need.epochs_needed]
        rows.append(
            (
                title,
                need.epochs,
                f"{need.epochs * need.plain_seconds:,.0f} s",
                f"{need.epochs * need.tract_seconds:,.0f} s",
                words.difference(need.plain, need.tract),
                ahead,
                "-" if need.is_bound else words.ranged(share, "{:.2f}"),
            )
        )
    heads = ("network", "epochs", "plain", "TrAct", "after the same epochs", "in the same time", "of plain's time")
    return _table(heads, rows)


def _needs() -> list[tuple[str, Need]]:
    return [
        (words.title_of(results, network, optimizer), need)
        for results in all_results()
        for network, optimizer in SETTINGS
        for need in needs(results, network, optimizer)
    ]


def readme() -> str:
    """The largest budget with three seeds of each setting, for the README."""
    rows = []
    for results in all_results():
        for setting in SETTINGS:
            if last := best_known(needs(results, *setting)):
                accuracies = words.accuracy(last.plain), words.accuracy(last.tract), words.marked(last.pairs)
                rows.append((words.title_of(results, *setting), last.epochs, len(last.plain), *accuracies))
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
                if sum(map(bool, pairs)) > 1:
                    plain = results.of(dataclasses.replace(run, method="plain"))
                    cells = (words.marked(found) for found in pairs)
                    title = f"{words.title_of(results, network, optimizer)}, width {width:g}"
                    rows.append((title, max(map(len, pairs)), words.accuracy([r.accuracy for r in plain]), *cells))
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
                    rows.append((words.title_of(results, network, optimizer), f"{noise:g}", len(pairs), *cells))
    return _table(("network", "noise", "seeds", *(f"contrast {value:g}" for value in CONTRASTS)), rows)


def differences(question: str, *heads: str) -> str:
    """One row for each comparison of a question.

    Args:
        question: a name in `comparisons.QUESTIONS`.
        heads: of the column that says what is compared, and of both accuracies.
    """
    items = found(question, all_results())
    with_epochs = len({item.comparison.other.epochs for item in items}) > 1
    rows = [_row(item, with_epochs=with_epochs) for item in items]
    epochs = ("epochs",) if with_epochs else ()
    return _table(("network", *epochs, heads[0], "seeds", *heads[1:], "difference"), rows)


def pictured(question: str, *heads: str) -> str:
    """The picture of a question, see `figures.differences`, above its table."""
    sizes = [results.size.name for results in all_results() if found(question, [results])]
    pictures = [
        f"![Points over plain training](../../benchmarks/results/convergence_{size}_{question}.png)\n\n"
        for size in sizes
    ]
    return "".join(pictures) + differences(question, *heads)


def whitening() -> str:
    """The parts of whitening by ``lam``, as differences to plain training."""
    rows = []
    for results, run in answers.whitening_runs(all_results()):
        plain = words.accuracy([result.accuracy for result in results.of(run)])
        for method in WHITENING_PARTS:
            pairs = [results.pairs(dataclasses.replace(run, method=method, lam=value)) for value in WHITENING_LAMS]
            if any(pairs):
                cells = (f"{words.marked(found)} ({len(found)})" if found else "-" for found in pairs)
                rows.append((run.epochs, plain, words.METHOD_TITLES[method], *cells))
    return _table(("epochs", "plain", "first layer", *(f"{value:g}" for value in WHITENING_LAMS)), rows)


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


def _answer(sentences: Callable[[Sequence[Results]], str]) -> Callable[[], str]:
    return lambda: sentences(all_results()) or "Not run yet.\n"


TABLES: dict[str, Callable[[], str]] = {
    **{f"convergence_{name}": _answer(part) for name, part in answers.ANSWERS.items()},
    "convergence_conditions": conditions,
    "convergence_readme": readme,
    "convergence_speedup": speedup,
    "convergence_time": time,
    "convergence_lambda": lam,
    "convergence_contrast": contrast,
    "convergence_inputs": lambda: pictured("inputs", "input", "plain", "TrAct"),
    "convergence_ablations": lambda: pictured("ablations", "first layer", "plain", "accuracy"),
    "convergence_whitening": whitening,
    "convergence_whitened_inputs": lambda: differences("whitened_inputs", "first layer", "plain", "accuracy"),
    "convergence_harm": lambda: pictured("harm", "", "plain", "TrAct"),
    "convergence_many": lambda: pictured("many", "first layer", "plain", "accuracy"),
    "convergence_vit": lambda: pictured("vit", "", "plain", "TrAct"),
    "convergence_rates": lambda: pictured("rates", "", "plain", "TrAct"),
    "convergence_coverage": lambda: coverage.coverage(all_results()),
}


def _table(heads: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    return table(heads, rows) if rows else "Not run yet.\n"


def _row(item: Found, *, with_epochs: bool) -> tuple[object, ...]:
    before, after = words.accuracies(item.pairs)
    epochs = (item.comparison.other.epochs,) if with_epochs else ()
    figures = words.accuracy(before), words.accuracy(after), words.marked(item.pairs)
    return (item.network, *epochs, item.comparison.title, len(item.pairs), *figures)


def _contrast_cell(pairs: Sequence[Pair], place: int) -> str:
    plain, tract = answers.by_contrast(pairs, place)
    return f"{100 * statistics.fmean(plain):.1f} %, {words.difference(plain, tract)}"


def _epochs(need: Need) -> str:
    if need.is_bound:
        return "-"
    bound = "at most " if any(need.at_most) else ""
    return bound + words.ranged(need.epochs_needed, "{:.1f}")
