"""The zoo by families, as text and as JSON."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .verdict import Outcome, Verdict

PACKAGES = ("torch", "timm", "torchvision", "transformers")


def as_text(verdicts: Sequence[Verdict]) -> str:
    """One line for each family, and for each model that is not as the table says, then the sums."""
    width = max(len(verdict.case.family) for verdict in verdicts)
    lines = [f"{'family':{width}}  models  right  nothing  wrong  rejected"]
    for family, members in _by_family(verdicts).items():
        counts = Counter(verdict.outcome for verdict in members)
        lines.append(f"{family:{width}}  {_row(len(members), counts)}")
        lines.extend(
            f"    {verdict.case.id}: {verdict.outcome.value}: {verdict.detail}"
            for verdict in members
            if not verdict.is_good
        )
    lines.append(f"{'all':{width}}  {_row(len(verdicts), Counter(verdict.outcome for verdict in verdicts))}")
    lines.append(", ".join(f"{name} {version}" for name, version in versions().items()))
    return "\n".join(lines)


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The same for machines, with every model."""
    return {
        "versions": versions(),
        "totals": _totals(verdicts),
        "families": {
            family: {"totals": _totals(members), "models": [_model(verdict) for verdict in members]}
            for family, members in _by_family(verdicts).items()
        },
    }


def versions() -> dict[str, str]:
    """Versions of the packages that the models come from."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _by_family(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    families: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        families.setdefault(verdict.case.family, []).append(verdict)
    return families


def _row(models: int, counts: Counter[Outcome]) -> str:
    right, nothing, wrong, rejected = (counts[outcome] for outcome in Outcome)
    return f"{models:6}  {right:5}  {nothing:7}  {wrong:5}  {rejected:8}"


def _totals(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {"models": len(verdicts)} | {outcome.value: counts[outcome] for outcome in Outcome}


def _model(verdict: Verdict) -> dict[str, Any]:
    case = verdict.case
    return {
        "id": case.id,
        "input": case.kind,
        "first layers": sorted("+".join(sorted(layer)) for layer in case.layers),
        "outcome": verdict.outcome.value,
        "detail": verdict.detail,
    }
