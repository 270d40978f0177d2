"""Differences of runs that are paired by their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["difference"]


def difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean difference of runs with the same seeds, and its standard error."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
