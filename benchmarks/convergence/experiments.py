"""The questions, and the runs that answer them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from benchmarks.convergence.many_models import MODELS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size

__all__ = ["EXPERIMENTS", "SIDES", "Experiment"]

SIDES = ("plain", "tract")
SETTINGS = (("resnet", "sgd"), ("resnet", "adam"), ("vit", "adam"))
ONE_EACH = (("resnet", "sgd"), ("vit", "adam"))
SCALES = ("standardised", "symmetric", "unit", "raw")
SCALE_SIDES = (*SIDES, "tract-relative")
LATE = ("tract", "tract-first-third", "tract-first-half", "tract-rising")
HABITS = ("no-decay", "clip")
BATCH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
ACCUMULATED = ("plain-4", "tract-4-local")
STRONG = ("none", "mixup", "randaugment", "erasing", "all")
NOISES = (0.0, 0.3)
VIT_RATES = (0.5, 2.0)
VIT_WARM_UPS = (0.05, 0.5)
VIT_WIDTH = 2.0
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
ABLATIONS = (
    "plain",
    "tract",
    "patchnorm",
    "dualpatchnorm",
    "tract-first-third",
    "tract-running",
    "plain-8",
    "tract-8-local",
    "tract-8-shared",
)
WHITENING_LAMS = (0.1, 0.01, 0.001, 0.0001)
WHITENING_PARTS = ("tract", "tract-dataset", "whitened-start", "whitened")
WHITENING_OTHERS = (
    ("plain", "zca3"),
    ("plain", "zca9"),
    ("plain", "zca"),
    ("tract", "zca9"),
    ("tract", "zca"),
    ("frozen", Run.inputs),
    ("frozen-eigenvectors", Run.inputs),
)
"""Methods and inputs."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A question.

    Attributes:
        question: in a sentence.
        runs: those of one seed, given the size.
    """

    question: str
    runs: Callable[[Size, int], Iterable[Run]]

    def all_runs(self, size: Size, seeds: Iterable[int]) -> list[Run]:
        """Of all seeds; a seed is finished before the next one begins, networks that are alike are side by side."""
        return [run for seed in seeds for run in self.runs(size, seed)]


def speedup(size: Size, seed: int) -> Iterable[Run]:
    """Three settings, three budgets."""
    for network, optimizer in SETTINGS:
        for epochs in size.budgets:
            for method in SIDES:
                yield Run(network, optimizer, epochs, method, seed)


def lam(size: Size, seed: int) -> Iterable[Run]:
    """Every ``lam`` at width 1, every second one at the other widths, with the plain run of each."""
    for network, optimizer in ONE_EACH:
        for width, lams in ((1.0, size.lams), *((width, size.lams[::2]) for width in size.widths)):
            yield Run(network, optimizer, size.budgets[0], "plain", seed, width=width)
            for value in lams:
                yield Run(network, optimizer, size.budgets[0], "tract", seed, lam=value, width=width)


def contrast(size: Size, seed: int) -> Iterable[Run]:
    """Planted contrast, without and with noise."""
    for network, optimizer in ONE_EACH:
        for noise in NOISES:
            for method in SIDES:
                yield Run(network, optimizer, size.budgets[0], method, seed, inputs="contrast", noise=noise)


def inputs(size: Size, seed: int) -> Iterable[Run]:
    """Scales of the input, and strong augmentation."""
    for network, optimizer in ONE_EACH:
        for scale in SCALES:
            for method in SCALE_SIDES:
                yield Run(network, optimizer, size.budgets[0], method, seed, inputs=scale)
        for method in SIDES:
            for augmentation in STRONG:
                yield Run(network, optimizer, size.budgets[0], method, seed, augmentation=augmentation)


def ablations(size: Size, seed: int) -> Iterable[Run]:
    """What else could be done to a first layer, and what of TrAct matters."""
    budget = size.budgets[0]
    for network, optimizer in ONE_EACH:
        for method in ABLATIONS:
            yield Run(network, optimizer, budget, method, seed)
        for method in SIDES:
            yield Run(network, optimizer, budget, method, seed, inputs="zca")
    for network in ("resnet", "vit"):
        for method in ("plain", "tract", "plain-sgd-first", "tract-sgd-first"):
            if network == "resnet" or method.endswith("sgd-first"):  # the ViT's others are above
                yield Run(network, "adam", budget, method, seed)


def many(size: Size, seed: int) -> Iterable[Run]:
    """Architectures that nobody tuned anything for."""
    for network, architecture in MODELS.items():
        for method in SIDES:
            yield Run(network, architecture.optimizer, size.budgets[0], method, seed)


def rates(size: Size, seed: int) -> Iterable[Run]:
    """Learning rates for both sides: whether those of the other experiments favour one, and whether more is as good."""
    for network, optimizer in SETTINGS:
        for factor in RATES:
            for method in SIDES:
                yield Run(network, optimizer, size.budgets[0], method, seed, rate=factor)


def whitening(size: Size, seed: int) -> Iterable[Run]:
    """Whitening in parts: gradient, start, size of the filter; at the smallest and the largest budget."""
    for epochs in (size.budgets[0], size.budgets[-1]):
        run = Run("resnet", "sgd", epochs, "plain", seed)
        yield from (dataclasses.replace(run, method=method, inputs=inputs) for method, inputs in WHITENING_OTHERS)
        for value in WHITENING_LAMS:
            yield from (dataclasses.replace(run, method=method, lam=value) for method in WHITENING_PARTS)
        yield run


def late(size: Size, seed: int) -> Iterable[Run]:
    """A long training, with TrAct in a part of it or with a ``lam`` that rises."""
    for method in ("plain", *LATE):
        yield Run("resnet", "sgd", size.late, method, seed)


def habits(size: Size, seed: int) -> Iterable[Run]:
    """What trainers do beside the optimiser: no weight decay for the first layer, clipped gradients."""
    run = Run("resnet", "sgd", size.budgets[-1], "plain", seed)
    for side in SIDES:
        for method in (side, *(f"{side}-{habit}" for habit in HABITS)):
            yield dataclasses.replace(run, method=method)


def vit(size: Size, seed: int) -> Iterable[Run]:
    """The transformer in its longest training, with one thing changed at a time."""
    for _, run in vit_variants(size):
        for method in SIDES:
            yield dataclasses.replace(run, method=method, seed=seed)


def vit_variants(size: Size) -> Iterator[tuple[str, Run]]:
    """What is changed in the training, in words, and the plain run."""
    run = Run("vit", "adam", size.budgets[-1], "plain", 0)
    yield "the ordinary training", run
    for factor in VIT_RATES:
        yield f"rate x {factor:g}", dataclasses.replace(run, rate=factor)
    for share in VIT_WARM_UPS:
        yield f"warm-up in {100 * share:g} % of the training", dataclasses.replace(run, warm_up=share)
    yield f"width x {VIT_WIDTH:g}", dataclasses.replace(run, width=VIT_WIDTH)
    for name in size.networks:
        if name.startswith("vit-"):
            yield "the ordinary training", dataclasses.replace(run, network=name)


def batch(size: Size, seed: int) -> Iterable[Run]:
    """Batches of other sizes, and the largest accumulated from four of the ordinary one.

    The learning rate is proportional to the batch, as is usual for SGD (arXiv 1706.02677).
    """
    for factor in BATCH_FACTORS:
        for method in SIDES:
            yield with_batch(Run("resnet", "sgd", size.budgets[0], method, seed), size, factor)
    for method in ACCUMULATED:
        yield with_batch(Run("resnet", "sgd", size.budgets[0], method, seed), size, BATCH_FACTORS[-1])


def with_batch(run: Run, size: Size, factor: float) -> Run:
    """The run with a batch that is so many times that of the size, and with the learning rate that goes with it."""
    return run if factor == 1 else dataclasses.replace(run, batch=round(factor * size.batch), rate=factor)


EXPERIMENTS = {
    "speedup": Experiment("In how many epochs does TrAct reach the accuracy of plain training?", speedup),
    "lambda": Experiment("How does accuracy depend on lam, and does that depend on the width?", lam),
    "contrast": Experiment("Do low-contrast images gain most, and what does noise do?", contrast),
    "inputs": Experiment("What if inputs are not standardised, or strongly augmented?", inputs),
    "ablations": Experiment("Which alternatives do the same, and which parts matter?", ablations),
    "many": Experiment("In how many architectures does TrAct win?", many),
    "late": Experiment("Does TrAct harm late in a training?", late),
    "habits": Experiment("Do weight decay and clipping change what TrAct gains?", habits),
    "batch": Experiment("Does what TrAct gains depend on the batch, and on accumulating it?", batch),
    "vit": Experiment("Why does the small vision transformer gain so little?", vit),
    "whitening": Experiment("Why does whitening gain more, and what does TrAct leave?", whitening),
    "rates": Experiment("Is it only a matter of the learning rate?", rates),
}
