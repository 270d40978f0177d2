"""The ways to solve are what they are called."""

import torch

from benchmarks import solve


def test_on_a_small_system_every_way_agrees_with_an_inverse() -> None:
    """Well conditioned, so that the fixed numbers of steps are enough."""
    torch.manual_seed(0)
    root = torch.randn(9, 9, dtype=torch.float64)
    matrix, gradient = root @ root.T / 9 + torch.eye(9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    expected = gradient @ torch.linalg.inv(matrix)
    for name, way in solve.WAYS.items():
        assert solve.error(way(matrix, gradient), expected) < 1e-5, name


def test_a_record_has_every_way() -> None:
    record = solve.measure("3x3", "standardised", 2)
    assert record["n"] == 27
    assert set(record["ways"]) == set(solve.WAYS)
    assert record["ways"]["cholesky_float64"]["error"] == 0.0
