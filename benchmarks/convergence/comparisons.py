"""Which runs are compared with which, for each question that is one of differences between pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.convergence import words
from benchmarks.convergence.experiments import (
    ABLATIONS,
    ACCUMULATED,
    BATCH_FACTORS,
    HABITS,
    LATE,
    ONE_EACH,
    RATES,
    SCALES,
    SETTINGS,
    SIDES,
    STRONG,
    WHITENING_OTHERS,
    vit_variants,
    with_batch,
)
from benchmarks.convergence.many_models import MODELS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size
from benchmarks.convergence.summary import Result, Results

__all__ = ["QUESTIONS", "Comparison", "Found", "found"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run, in words, and the run that it is compared with; seeds are set aside."""

    title: str
    plain: Run
    other: Run


@dataclasses.dataclass(frozen=True)
class Found:
    """A comparison of which something was run.

    Attributes:
        network: network and optimiser in words.
        comparison: what is compared.
        pairs: plain and other results of the seeds that have both.
    """

    network: str
    comparison: Comparison
    pairs: Sequence[tuple[Result, Result]]


def found(question: str, everything: Iterable[Results]) -> list[Found]:
    """What was run of a question.

    A network of a size of which nothing was run but TrAct and plain training as they are in every question is left out.
    """
    return [
        item for results in everything for item in _of_size(results, QUESTIONS[question](results.size)) if item.pairs
    ]


def _of_size(results: Results, comparisons: Iterable[Comparison]) -> list[Found]:
    rows = [
        Found(
            words.title_of(results, item.other.network, item.other.optimizer),
            item,
            results.matched(item.plain, item.other),
        )
        for item in comparisons
    ]
    special = {row.network for row in rows if row.pairs and not _is_ordinary(row.comparison)}
    return [row for row in rows if row.network in special]


def _is_ordinary(item: Comparison) -> bool:
    run = item.other
    return run.network in ("resnet", "vit") and run == Run(run.network, run.optimizer, run.epochs, "tract", 0)


def _sides(title: str, run: Run) -> Comparison:
    return Comparison(title, *(dataclasses.replace(run, method=method) for method in SIDES))


def inputs(size: Size) -> Iterator[Comparison]:
    """Scales with either kind of ``lam``, augmentations."""
    for network, optimizer in ONE_EACH:
        run = Run(network, optimizer, size.budgets[0], "plain", 0)
        for scale in SCALES:
            plain = dataclasses.replace(run, inputs=scale)
            for method, kind in (("tract", "absolute"), ("tract-relative", "relative")):
                title = f"{words.INPUT_TITLES[scale]} with {kind} `lam`"
                yield Comparison(title, plain, dataclasses.replace(plain, method=method))
        for augmentation in STRONG:
            yield _sides(words.AUGMENTATION_TITLES[augmentation], dataclasses.replace(run, augmentation=augmentation))


def ablations(size: Size) -> Iterator[Comparison]:
    """Everything is compared with plain training; in parts of a batch, with plain training in the same parts."""
    for network, optimizer in ONE_EACH:
        run = Run(network, optimizer, size.budgets[0], "plain", 0)
        for method in ABLATIONS[1:]:
            plain = dataclasses.replace(run, method="plain-8" if method.startswith("tract-8") else "plain")
            yield Comparison(words.METHOD_TITLES[method], plain, dataclasses.replace(run, method=method))
        for method in SIDES:
            title = f"{words.METHOD_TITLES[method]} on {words.INPUT_TITLES['zca']}"
            yield Comparison(title, run, dataclasses.replace(run, method=method, inputs="zca"))
    for network in ("resnet", "vit"):
        run = Run(network, "adam", size.budgets[0], "plain", 0)
        for method in ("tract", "plain-sgd-first", "tract-sgd-first"):
            if network == "resnet" or method != "tract":
                yield Comparison(words.METHOD_TITLES[method], run, dataclasses.replace(run, method=method))


def whitened_inputs(size: Size) -> Iterator[Comparison]:
    """Whitened images and frozen layers, at the smallest and the largest budget."""
    for epochs in (size.budgets[0], size.budgets[-1]):
        run = Run("resnet", "sgd", epochs, "plain", 0)
        for method, kind in WHITENING_OTHERS:
            images = "" if kind == Run.inputs else f" on {words.INPUT_TITLES[kind]}"
            title = f"{words.METHOD_TITLES[method]}{images}"
            yield Comparison(title, run, dataclasses.replace(run, method=method, inputs=kind))


def late(size: Size) -> Iterator[Comparison]:
    """TrAct in parts of a long training."""
    run = Run("resnet", "sgd", size.late, "plain", 0)
    for method in LATE:
        yield Comparison(words.METHOD_TITLES[method], run, dataclasses.replace(run, method=method))


def habits(size: Size) -> Iterator[Comparison]:
    """Both sides do what trainers do."""
    run = Run("resnet", "sgd", size.budgets[-1], "plain", 0)
    for habit in HABITS:
        plain, tract = (dataclasses.replace(run, method=f"{side}-{habit}") for side in SIDES)
        yield Comparison(words.HABIT_TITLES[habit], plain, tract)


def batch(size: Size) -> Iterator[Comparison]:
    """Batches of other sizes, and one that is accumulated."""
    run = Run("resnet", "sgd", size.budgets[0], "plain", 0)
    for factor in BATCH_FACTORS:
        yield _sides(f"batch {round(factor * size.batch)}", with_batch(run, size, factor))
    plain, tract = (
        with_batch(dataclasses.replace(run, method=method), size, BATCH_FACTORS[-1]) for method in ACCUMULATED
    )
    yield Comparison(f"batch {plain.batch} accumulated from 4 of {size.batch}", plain, tract)


def harm(size: Size) -> Iterator[Comparison]:
    """Late, habits and batches."""
    yield from late(size)
    yield from habits(size)
    yield from batch(size)


def vit(size: Size) -> Iterator[Comparison]:
    """The transformer as it is, and with one thing changed at a time."""
    for title, run in vit_variants(size):
        yield _sides(title, run)


def many(size: Size) -> Iterator[Comparison]:
    """Architectures."""
    for network, architecture in MODELS.items():
        yield _sides("TrAct", Run(network, architecture.optimizer, size.budgets[0], "plain", 0))


def rates(size: Size) -> Iterator[Comparison]:
    """Both sides at factors on the learning rate."""
    for network, optimizer in SETTINGS:
        for factor in RATES:
            run = Run(network, optimizer, size.budgets[0], "plain", 0, rate=factor)
            yield _sides(f"rate x {factor:g}", run)


QUESTIONS: dict[str, Callable[[Size], Iterable[Comparison]]] = {
    "inputs": inputs,
    "ablations": ablations,
    "whitened_inputs": whitened_inputs,
    "late": late,
    "habits": habits,
    "batch": batch,
    "harm": harm,
    "many": many,
    "vit": vit,
    "rates": rates,
}
