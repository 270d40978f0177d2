"""Whether what was found in a model is what its row says."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from .capture import Found
from .case import Case, Layer


class Outcome(enum.Enum):
    """What a model ends with."""

    RIGHT = "matched right"
    NOTHING = "correctly empty"
    WRONG = "matched wrong"
    REJECTED = "rejected"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome for one model; ``detail`` says what differs, or why a layer was rejected."""

    case: Case
    outcome: Outcome
    detail: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is as the table says."""
        return self.outcome in (Outcome.RIGHT, Outcome.NOTHING)


def judge(case: Case, found: Found) -> Verdict:
    """Compare what was found with the table. Layers are compared as sets of the user's parameter names."""
    matched = {_layer(match.weight) for match in found.matches}
    refused = {_layer(item.weight): item.reason for item in found.rejections if item.kind == "unsupported"}
    unknown = frozenset().union(*case.layers) - found.parameters
    unexpected = (matched | set(refused)) - case.layers
    missing = case.layers - matched - set(refused)
    alarms = [item for item in found.rejections if item.kind == "no first layer"]
    if unknown:
        return Verdict(
            case, Outcome.WRONG, f"the table names parameters that the model does not have: {sorted(unknown)}"
        )
    if unexpected or missing:
        return Verdict(case, Outcome.WRONG, f"not first layers: {_names(unexpected)}; missing: {_names(missing)}")
    if refused:
        return Verdict(case, Outcome.REJECTED, "; ".join(f"{_name(key)}: {refused[key]}" for key in refused))
    if case.layers:
        return Verdict(case, Outcome.RIGHT)
    if case.meets and any(case.meets in alarm.op for alarm in alarms):
        return Verdict(case, Outcome.NOTHING)
    reasons = [f"{alarm.layer} ({alarm.op})" for alarm in alarms]
    return Verdict(case, Outcome.WRONG, f"data meets its first parameter in {case.meets}; the backend says {reasons}")


def _layer(weight: str) -> Layer:
    """The parameters of a match, which lists them separated by commas."""
    return frozenset(weight.split(", "))


def _name(layer: Layer) -> str:
    return "+".join(sorted(layer))


def _names(layers: Iterable[Layer]) -> str:
    return ", ".join(sorted(map(_name, layers))) or "none"
