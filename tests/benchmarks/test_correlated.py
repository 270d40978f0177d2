"""Where the weights move on correlated features."""

import torch

from benchmarks import correlated, harm, report


def test_leading_directions_are_those_of_the_singular_values() -> None:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([9, 5, 3, 1, 0.5, 0.2, 0.1, 0.1])
    found = correlated.leading_directions(x)
    _, singular, vectors = torch.linalg.svd(x.double(), full_matrices=False)
    held = singular.square().cumsum(0) / singular.square().sum()
    count = next(number for number in range(1, 9) if held[number - 1] >= 0.95)
    assert found.shape == (8, count)
    torch.testing.assert_close(found @ found.T, vectors[:count].T @ vectors[:count], atol=1e-9, rtol=0)


def test_the_share_outside_of_directions() -> None:
    directions = torch.eye(6, dtype=torch.float64)[:, :2]
    move = torch.zeros(3, 6)
    move[0, 0], move[1, 1], move[2, 5] = 1.0, 2.0, 2.0
    assert abs(correlated.share_outside(move, directions) - 4 / 9) < 1e-12


def test_two_steps_with_and_without_tract(monkeypatch) -> None:
    monkeypatch.setattr(harm, "STEPS", 2)
    monkeypatch.setattr(harm, "RATES", (1e-3,))
    plain, tract = (correlated.measure(lam, range(1)) for lam in (None, 0.1))
    assert (plain["lam"], plain["rate"]) == (None, 1e-3)
    for record in (plain, tract):
        assert all(0 <= value <= 100 for name in ("train", "test") for value in record[name])
        assert len(record["test"]) == 1
    assert min(tract["outside"]) > max(plain["outside"]), "it divides by their variance"


def test_the_start_is_the_weight_before_the_first_step(monkeypatch) -> None:
    monkeypatch.setattr(harm, "STEPS", 0)
    case = next(harm.cases(None))
    fitted = harm.fit(case, *case.data(), 0.1, 1e-3, 0)
    assert torch.equal(fitted.start, fitted.model[0].weight)
    assert len(fitted.train[0]) == 1125
    assert len(fitted.test[0]) == 375


def test_the_answer_has_the_numbers_of_the_table() -> None:
    plain, first = (row.split(" | ") for row in report.correlated().splitlines()[2:4])
    for row in (plain, first):
        for value in row[2:]:
            assert value.strip(" |") in report.correlated_answer()
