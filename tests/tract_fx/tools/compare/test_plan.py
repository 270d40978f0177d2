"""What is planned fits into the time, for all seeds and sides."""

from __future__ import annotations

import pytest

from tract_fx.tools.compare.plan import MAX_EPOCHS, Cost, Plan, make_plan
from tract_fx.tools.errors import CompareError
from tract_fx.tools.training.sides import Side

SIDES = (Side("plain", None), Side("TrAct, lam 0.1", 0.1), Side("TrAct, lam 0.2", 0.2))
COST = Cost({"plain": 0.1, "TrAct, lam 0.1": 0.2, "TrAct, lam 0.2": 0.2}, epoch=1.0)


@pytest.mark.parametrize("seconds", [4.0, 20.0, 100.0, 555.0, 1200.0])
@pytest.mark.parametrize("seeds", [1, 4])
def test_the_plan_is_the_longest_that_fits(seconds: float, seeds: int) -> None:
    steps_per_epoch = 20
    try:
        plan, expected = make_plan(COST, SIDES, seeds, steps_per_epoch, seconds, None)
    except CompareError:
        assert seeds * (3 * 1.0 + 0.5) > 0.9 * seconds
        return
    assert expected == pytest.approx(seeds * (plan.steps * 0.5 + plan.epochs * 3 * 1.0))
    assert expected <= 0.9 * seconds
    if plan.steps < steps_per_epoch:
        assert plan.epochs == 1
        assert expected + seeds * 0.5 > 0.9 * seconds
    else:
        assert plan.steps == plan.epochs * steps_per_epoch
        assert expected + seeds * (steps_per_epoch * 0.5 + 3.0) > 0.9 * seconds


def test_there_is_an_end_to_what_is_planned() -> None:
    assert make_plan(COST, SIDES, 1, 2, 1e6, None)[0] == Plan(MAX_EPOCHS, 2 * MAX_EPOCHS)


@pytest.mark.parametrize("seconds", [None, 1.0])
def test_epochs_that_were_asked_for_are_taken(seconds: float | None) -> None:
    plan, expected = make_plan(COST, SIDES, 2, 10, seconds, 300)
    assert plan == Plan(300, 3000)
    assert expected == pytest.approx(2 * 300 * (10 * 0.5 + 3))


@pytest.mark.parametrize("seconds", [-5.0, 1.0])
def test_what_does_not_fit_at_all_is_refused_in_numbers(seconds: float) -> None:
    with pytest.raises(
        CompareError, match=r"one step and one test of each of 12 runs take about 0\.2 minutes, and 0\.0"
    ):
        make_plan(COST, SIDES, 4, 10, seconds, None)
