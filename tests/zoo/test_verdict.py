"""A verdict tells right from wrong, and a report says which models it is about."""

import pytest
from torch import nn

from tract_fx import LayerMatch, LayerRejection

from .capture import Found
from .case import Case, layers_of
from .report import as_json, as_text
from .verdict import Outcome, Verdict, judge

NAMES = frozenset({"stem.weight", "stem.gain", "time.weight", "table.weight"})


def case(weights: str = "", meets: str | None = None) -> Case:
    return Case("made:up", "made up", "image", nn.Identity, lambda: ((), {}), layers_of(weights), meets)


def found(*weights: str, refused: str = "", alarm: str = "") -> Found:
    matches = tuple(LayerMatch(weight, "", "convolution", 9, 3, 1, "primal") for weight in weights)
    rejections = []
    if refused:
        rejections.append(LayerRejection(refused, "", "convolution", "unsupported", "it is transposed", ""))
    if alarm:
        rejections.append(LayerRejection("table.weight", "table", alarm, "no first layer", "there is none", ""))
    rejections.append(LayerRejection("position.weight", "", "mm", "constant input", "a table", ""))
    return Found(matches, tuple(rejections), NAMES)


@pytest.mark.parametrize(
    ("expected", "answer", "outcome", "detail"),
    [
        (case("stem.weight"), found("stem.weight"), Outcome.RIGHT, ""),
        (case("stem.weight"), found("stem.weight", "stem.weight"), Outcome.RIGHT, ""),
        (case("stem.gain+stem.weight"), found("stem.weight, stem.gain"), Outcome.RIGHT, ""),
        (case("stem.weight time.weight"), found("time.weight", "stem.weight"), Outcome.RIGHT, ""),
        (case("stem.weight time.weight"), found("stem.weight"), Outcome.WRONG, "missing: time.weight"),
        (case("stem.weight"), found("stem.weight", "time.weight"), Outcome.WRONG, "not first layers: time.weight"),
        (case("stem.weight"), found("time.weight"), Outcome.WRONG, "missing: stem.weight"),
        (case("stem.weight"), found("stem.gain, stem.weight"), Outcome.WRONG, "not first layers: stem.gain"),
        (case("stem.weight"), found("stem.weight", alarm="embedding"), Outcome.RIGHT, ""),  # of a graph after a break
        (case("typo.weight"), found("typo.weight"), Outcome.WRONG, "does not have"),
        (case("stem.weight"), found(refused="stem.weight"), Outcome.REJECTED, "stem.weight: it is transposed"),
        (case("stem.weight"), found("stem.weight", refused="time.weight"), Outcome.WRONG, "time.weight"),
        (case(meets="embedding"), found(alarm="embedding"), Outcome.NOTHING, ""),
        (case(meets="embedding"), found(alarm="mul"), Outcome.WRONG, "embedding"),
        (case(meets="embedding"), found(), Outcome.WRONG, "embedding"),
        (case(meets="embedding"), found("stem.weight"), Outcome.WRONG, "not first layers: stem.weight"),
    ],
)
def test_verdict(expected: Case, answer: Found, outcome: Outcome, detail: str) -> None:
    verdict = judge(expected, answer)
    assert verdict.outcome is outcome
    assert detail in verdict.detail
    assert bool(verdict.detail) != verdict.is_good


def test_report_counts_by_family_and_shows_what_is_wrong() -> None:
    verdicts = [Verdict(case("stem.weight"), Outcome.RIGHT), Verdict(case(meets="mul"), Outcome.WRONG, "it is not so")]
    text, data = as_text(verdicts), as_json(verdicts)
    assert "made:up: matched wrong: it is not so" in text
    assert text.splitlines()[1].split() == ["made", "up", "2", "1", "0", "1", "0"]
    assert data["totals"] == {"models": 2} | {outcome.value: 0 for outcome in Outcome} | {
        "matched right": 1,
        "matched wrong": 1,
    }
    assert data["families"]["made up"]["models"][0]["first layers"] == ["stem.weight"]
    assert set(data["versions"]) == {"torch", "timm", "torchvision", "transformers"}
