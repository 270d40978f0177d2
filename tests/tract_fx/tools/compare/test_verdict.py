"""What is said of differences: the statistics against SciPy's, the sentences against what was put in."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from tract_fx.tools.compare.verdict import (
    Curve,
    Point,
    final_difference,
    sentences,
    step_seconds,
    t_quantile,
    t_test,
)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30])
@pytest.mark.parametrize("t", [0.0, 0.3, -1.7, 4.3, 40.0])
def test_students_distribution(t: float, freedom: int) -> None:
    assert t_test(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-6, abs=1e-12)
    assert t_quantile(0.05, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_the_paired_test() -> None:
    plain, tract = [0.60, 0.64, 0.61, 0.66], [0.62, 0.645, 0.635, 0.665]
    found = final_difference("TrAct", plain, tract, images=2000)
    expected = stats.ttest_rel(tract, plain)
    assert found.mean == pytest.approx(0.01375)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert found.interval == pytest.approx((interval.low, interval.high))


def test_equal_differences_are_no_certainty() -> None:
    """Two seeds, ten test images: the same gain of one image is no proof."""
    found = final_difference("TrAct", [0.5, 0.6], [0.6, 0.7], images=10)
    assert found.p > 0.05
    same = final_difference("TrAct", [0.5, 0.6], [0.5, 0.6], images=10)
    assert same.p == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            [0.020, 0.022, 0.019, 0.020],
            "TrAct ends 2.0 points above plain training, beyond what four seeds differ by (95",
        ),
        ([-0.020, -0.022, -0.019, -0.020], "TrAct ends 2.0 points below plain training, beyond what four seeds"),
        (
            [0.01, -0.01, 0.02, -0.008],
            "No difference that four seeds can show: TrAct ends 0.3 points above plain training",
        ),
        ([0.013], "TrAct ends 1.3 points above plain training with one seed; how far seeds differ"),
    ],
)
def test_the_sentence_says_who_is_ahead_only_if_the_seeds_show_it(gains: list[float], said: str) -> None:
    found = final_difference("TrAct", [0.5] * len(gains), [0.5 + gain for gain in gains], images=1000)
    (sentence,) = sentences([found], [])
    assert sentence.startswith(said)


def test_several_values_of_lam_need_stronger_evidence() -> None:
    """p = 0.03 counts for one value, and not for the best of three."""
    found = final_difference("TrAct, lam 0.1", [0.5] * 4, [0.52, 0.508, 0.53, 0.515], images=1000)
    assert 0.017 < found.p < 0.05
    alone, among = sentences([found], [])[0], sentences([found] * 3, [])[0]
    assert alone.startswith("TrAct, lam 0.1 ends 1.8 points above plain training, beyond what four seeds differ by")
    assert among.startswith("No difference that four seeds can show")
    assert "3 values of lam need 0.017" in among


def test_a_diverged_side_is_no_comparison() -> None:
    found = final_difference("TrAct", [0.5, 0.6], [0.1, 0.1], images=100)
    assert sentences([found], ["TrAct"]) == [
        "The training loss of TrAct is no longer finite: there is nothing to compare."
    ]


def test_a_steps_cost_is_the_median_over_epochs_and_seeds() -> None:
    def curve(side: str, *seconds: float) -> Curve:
        return Curve(side, 0, tuple(Point(1.0, 0.5, 10, value) for value in seconds))

    curves = [curve("plain", 1, 2, 90), curve("TrAct", 7), curve("plain", 2)]
    assert step_seconds(curves, "plain") == pytest.approx(0.2)
    assert step_seconds(curves, "TrAct") == pytest.approx(0.7)
    assert math.isnan(step_seconds(curves, "other"))
