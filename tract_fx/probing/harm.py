"""Whether TrAct may harm: its gradient fits the batch, and does not hold on the next one.

Correlated features have directions of next to no variance. Where those are noise, and there are few rows to tell, TrAct
amplifies what the batch happened to have there. Two signs were seen to predict a lower test accuracy on the data sets of
``benchmarks/harm.py``: the step does worse on another batch than the plain one, or there are so few examples in all that it
will be fitted to each of them. Neither counts while the gradient explains only a small part of ``dZ`` on its own batch, as
for convolutions of images, which have thousands of rows for each feature. On other data (``benchmarks/harm_check.py``) no
loss was missed, and seven of ten warnings were false alarms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from tract_fx.probing.result import ConcernKind, LayerProbe
from tract_fx.probing.value_checks import Found

__all__ = ["FITTED", "likely_harm"]

# Half of the energy of dZ: what a batch of twice as many rows as directions above lam allows for noise alone.
FITTED = 0.7

# Of the cosine of the plain gradient on another batch. Harmful cases had 0.5 to 0.8, harmless ones 0.9 and more.
WORSE = 0.85

# From so many cosines on, their scatter says whether their mean differs from zero; for fewer, so many times that of chance.
ENOUGH, CHANCE = 6, 1.5

# Examples for each feature, and the share of the plain cosine above which TrAct gains so much that few examples do not harm.
FEW_EXAMPLES, GAIN = 4.0, 1.1


def likely_harm(probe: LayerProbe) -> Iterator[Found]:
    """A concern where TrAct may generalise worse than the plain gradient."""
    at_lam, others = probe.at_lam, probe.others
    if at_lam.own is None or at_lam.own < FITTED or not _is_known([plain for _, plain in others], min(probe.rows)):
        return
    plain = statistics.fmean(plain for _, plain in others)
    share = statistics.fmean(tract for tract, _ in others) / plain
    worse = share < WORSE and sum(tract < plain for tract, plain in others) >= 0.75 * len(others)
    few = probe.examples is not None and probe.examples < FEW_EXAMPLES * probe.features
    if not (worse or (few and share < GAIN)):
        return
    step = f"TrAct's step fits its own batch (cosine {at_lam.own:.2f})"
    if worse:
        seen = f"{step}, but does worse on another batch than the plain one ({share * plain:.2f}, plain {plain:.2f})"
    else:
        seen = (
            f"{step} and does no better on another one than the plain step ({share * plain:.2f}, plain {plain:.2f}), and "
            f"there are only {probe.examples:,} examples for {probe.features:,} features"
        )
    yield (
        ConcernKind.HARM,
        seen,
        f"TrAct may harm here, because its first layer learns noise. {_way_out(probe, plain)}",
    )


def _is_known(values: list[float], rows: int) -> bool:
    """Whether a mean differs from zero: without labels, or with noisy ones, there is nothing to compare."""
    if not values:
        return False
    mean = statistics.fmean(values)
    # Of few values the scatter is unknown: that of the cosine of two random vectors of so many rows stands for it.
    return mean > (2 * _error(values) if len(values) >= ENOUGH else CHANCE / math.sqrt(rows))


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values) / 2)  # both directions of a pair are one observation


def _way_out(probe: LayerProbe, plain: float) -> str:
    best = probe.suggested_lam
    if (
        best is not None
        and best > probe.lam
        and any(point.lam == best and (point.other or 0.0) > plain for point in probe.grid)
    ):
        return f"Take lam near {best:g}, which does nearly best on another batch, or train this layer without TrAct."
    return "Train this layer without TrAct, or on more examples."
