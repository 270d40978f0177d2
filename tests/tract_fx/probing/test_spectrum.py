"""Gradients along eigenvectors: both forms agree with the equations, and the measures mean what their names say."""

import math

import pytest
import torch
from torch import Tensor

from tract_fx import reference
from tract_fx.ops.patches import LINEAR
from tract_fx.probing.spectrum import condition, degrees_of_freedom, dual_spectrum, effective_rank, primal_spectrum


def pair(rows: int, features: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, features).double().cumsum(1), torch.randn(rows, 4).double()


def spectra(X: Tensor, dZ: Tensor) -> list:
    return [primal_spectrum((X.T @ X / len(X))[None], (dZ.T @ X)[None]), dual_spectrum(X, dZ[None], LINEAR)]


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("rows", [5, 30])
def test_both_forms_measure_the_gradients_of_the_reference(rows: int, lam: float) -> None:
    X, dZ = pair(rows, 9)
    old, new = dZ.T @ X, reference.primal(X, dZ, lam)
    for spectrum in spectra(X, dZ):
        assert spectrum.norm == pytest.approx(old.norm().item())
        assert spectrum.cosine(lam) == pytest.approx(((old * new).sum() / (old.norm() * new.norm())).item())
        assert spectrum.kept(lam) == pytest.approx((lam * new.norm() / old.norm()).item())


def test_large_and_small_lam() -> None:
    X, dZ = pair(30, 9)
    for spectrum in spectra(X, dZ):
        assert spectrum.cosine(1e9) == pytest.approx(1.0)
        assert spectrum.kept(1e9) == pytest.approx(1.0)
        assert spectrum.reshaped(1e9) == 0.0
        assert spectrum.kept(1e-9) < 1e-6
        assert spectrum.reshaped(1e-9) == pytest.approx(1.0)


def test_measures_do_not_depend_on_the_scale_of_the_gradient() -> None:
    X, dZ = pair(30, 9)
    one, other = (spectra(X, scale * dZ)[0] for scale in (1.0, 1e-20))
    for measure in ("cosine", "kept", "reshaped"):
        assert getattr(one, measure)(0.1) == pytest.approx(getattr(other, measure)(0.1))


def test_a_lam_that_rounding_would_swallow_is_the_one_that_the_pass_uses() -> None:
    X = torch.full((8, 3), 1e9).double()
    found = primal_spectrum((X.T @ X / 8)[None], torch.randn(1, 2, 3).double())
    assert math.isfinite(found.cosine(0.1))
    assert found.kept(1e-30) > 0


def test_condition() -> None:
    values = torch.tensor([[4.0, 2.0, 1.0], [9.0, 1.0, 1.0]]).double()
    assert condition(values) == 9
    assert condition(values, 1.0) == 5
    assert condition(torch.tensor([[1.0, 0.0]]).double()) == math.inf
    assert condition(torch.tensor([[1.0, 1e-18]]).double()) == math.inf
    assert condition(torch.tensor([[1.0, 1e-18]]).double(), 0.1) == pytest.approx(11)


def test_effective_rank() -> None:
    assert effective_rank(torch.full((2, 7), 3.0).double()) == pytest.approx(7)
    assert effective_rank(torch.tensor([[5.0, 0.0, 0.0]]).double()) == pytest.approx(1)
    assert effective_rank(torch.tensor([[1.0, 1.0, 0.0]]).double()) == pytest.approx(2)
    assert effective_rank(torch.zeros(1, 3).double()) == 0


def test_degrees_of_freedom() -> None:
    values = torch.tensor([[1e6, 1e6, 0.5, 1e-9]]).double()
    assert degrees_of_freedom(values, 0.5) == pytest.approx(2.5, abs=1e-5)
