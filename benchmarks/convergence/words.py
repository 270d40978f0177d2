"""Names and numbers as tables and sentences have them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.convergence.summary import Result, Results, mean_and_deviation
from tract_fx.tools.compare.verdict import Difference, final_difference

__all__ = [
    "AUGMENTATION_TITLES",
    "HABIT_TITLES",
    "INPUT_TITLES",
    "METHOD_TITLES",
    "accuracies",
    "accuracy",
    "compared",
    "difference",
    "is_clear",
    "is_gain",
    "is_loss",
    "listed",
    "marked",
    "optimizer_title",
    "pair_difference",
    "ranged",
    "title_of",
]

Pair = tuple[Result, Result]
LEVEL = 0.05
# Of two seeds, Student's distribution has one degree of freedom: they agree by chance too often to be called clear.
FEWEST_SEEDS = 3

METHOD_TITLES = {
    "plain": "plain",
    "tract": "TrAct",
    "patchnorm": "normalised patches",
    "dualpatchnorm": "DualPatchNorm",
    "plain-sgd-first": "plain with SGD for the first layer",
    "tract-sgd-first": "TrAct with SGD for the first layer",
    "tract-first-third": "TrAct in the first third only",
    "tract-running": "TrAct with a running average of the covariance",
    "plain-8": "plain in 8 parts of the batch",
    "tract-8-local": "TrAct in 8 parts with covariances of their own",
    "tract-8-shared": "TrAct in 8 parts with one covariance",
    "tract-first-half": "TrAct in the first half only",
    "tract-rising": "TrAct with `lam` from 0.05 to 0.2 by `CosineLam`",
    "tract-dataset": "gradient of whitening: TrAct, covariance of all patches",
    "whitened": "gradient and start: whitened patches",
    "whitened-start": "start of whitening alone",
    "frozen": "first layer frozen at random filters",
    "frozen-eigenvectors": "first layer frozen at eigenvectors of all patches",
}

HABIT_TITLES = {"no-decay": "no weight decay for the first layer", "clip": "gradients clipped to norm 1"}

AUGMENTATION_TITLES = {
    "none": "no augmentation",
    "mixup": "mixup",
    "randaugment": "RandAugment",
    "erasing": "erasing",
    "all": "RandAugment, erasing and mixup",
}

INPUT_TITLES = {
    "standardised": "standardised",
    "symmetric": "-1..1",
    "unit": "0..1",
    "raw": "0..255",
    "zca": "ZCA-whitened images",
    "zca9": "images whitened by a 9x9 filter",
    "zca3": "images whitened by a 3x3 filter",
}


def title_of(results: Results, network: str, optimizer: str) -> str:
    """Network and optimiser in words."""
    return f"{results.size.titles.get(network, network)}, {optimizer_title(optimizer)}"


def optimizer_title(name: str) -> str:
    """As its inventors write it."""
    return "SGD" if name == "sgd" else "Adam"


def accuracies(pairs: Sequence[Sequence[Result]]) -> tuple[list[float], list[float]]:
    """Of both sides."""
    return [first.accuracy for first, _ in pairs], [second.accuracy for _, second in pairs]


def accuracy(values: Sequence[float]) -> str:
    """Mean and sample standard deviation in percent."""
    mean, deviation = mean_and_deviation([100 * value for value in values])
    return f"{mean:.1f} %" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f} %"


def difference(before: Sequence[float], after: Sequence[float]) -> str:
    """Mean and sample standard deviation of the differences seed by seed, in percentage points."""
    mean, deviation = mean_and_deviation([100 * (b - a) for a, b in zip(before, after, strict=True)])
    mean = round(mean, 1) + 0.0  # no negative zero
    return f"{mean:+.1f}" if math.isnan(deviation) else f"{mean:+.1f} ± {deviation:.1f}"


def pair_difference(pairs: Sequence[Pair]) -> str:
    """The difference of some pairs, a dash where there are none."""
    return difference(*accuracies(pairs)) if pairs else "-"


def compared(pairs: Sequence[Pair]) -> Difference:
    """The difference of pairs with its test."""
    plain, other = accuracies(pairs)
    return final_difference("", plain, other, pairs[0][0].images["test"])


def is_clear(pairs: Sequence[Pair]) -> bool:
    """Whether the seeds show a difference: Student's test for paired samples, at 5 %. Fewer than three never do."""
    return len(pairs) >= FEWEST_SEEDS and compared(pairs).p < LEVEL


def is_gain(pairs: Sequence[Pair]) -> bool:
    """Clear, and for the other side."""
    return is_clear(pairs) and compared(pairs).mean > 0


def is_loss(pairs: Sequence[Pair]) -> bool:
    """Clear, and against the other side."""
    return is_clear(pairs) and compared(pairs).mean < 0


def marked(pairs: Sequence[Pair]) -> str:
    """`pair_difference`, in bold type where it is clear."""
    found = pair_difference(pairs)
    return f"**{found}**" if is_clear(pairs) else found


def ranged(values: Sequence[float], form: str) -> str:
    """Median, then smallest and largest."""
    words = ["more" if value == math.inf else form.format(value) for value in sorted(values)]
    middle = statistics.median(values)
    middle = "more" if middle == math.inf else form.format(middle)
    return middle if words[0] == words[-1] else f"{middle} ({words[0]} to {words[-1]})"


def listed(words: Sequence[str]) -> str:
    """Joined by commas, and by "and" before the last."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
