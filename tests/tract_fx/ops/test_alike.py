"""Many small linear layers at once: each gets the gradient that it would get alone."""

import math

import pytest
import torch
from torch import Tensor

from support.memory import peak_memory
from support.oracle import error
from tract_fx import reference
from tract_fx.ops import alike as module
from tract_fx.ops.alike import alike_gradients

LAM = torch.tensor(0.1, dtype=torch.float64)
SHAPES = {"primal": (24, 7, 5), "dual": (6, 17, 5), "square": (9, 9, 3), "one row": (1, 4, 2), "one feature": (5, 1, 2)}


def layers(rows: int, features: int, outputs: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], ...]:
    """Inputs of a different scale for each layer, and gradients of outputs."""
    generator = torch.Generator().manual_seed(0)
    X = [torch.randn(rows, features, generator=generator).mul_(4.0**index).to(dtype) for index in range(5)]
    return X, [torch.randn(rows, outputs, generator=generator).to(dtype) for _ in X]


def closed_form(rows: Tensor, output_gradient: Tensor, lam: float = 0.1) -> Tensor:
    """In the form that is well conditioned."""
    form = reference.dual if rows.shape[0] < rows.shape[1] else reference.primal
    return form(rows, output_gradient, lam)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("stacked", [2**18, 300, 1], ids=["all", "some", "one by one"])
def test_the_closed_form_of_each_layer(
    name: str, dtype: torch.dtype, stacked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_STACKED", stacked)
    X, dZ = layers(*SHAPES[name], dtype)
    found = alike_gradients(X, dZ, LAM)
    assert len(found) == len(X)
    for new, rows, gradient in zip(found, X, dZ, strict=True):
        assert new.dtype == torch.promote_types(dtype, torch.float32)
        assert error(new, closed_form(rows, gradient)) <= (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", ["primal", "dual"])
def test_a_relative_lam_is_relative_to_each_layer(name: str) -> None:
    X, dZ = layers(*SHAPES[name])
    for new, rows, gradient in zip(alike_gradients(X, dZ, LAM, True), X, dZ, strict=True):
        lam = 0.1 * rows.double().square().mean()
        assert error(new, closed_form(rows, gradient, lam)) <= 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["primal", "dual"])
def test_a_broken_layer_spoils_no_other(name: str, dtype: torch.dtype, value: float) -> None:
    """It gets its own plain gradient, which is not finite where its input is not."""
    X, dZ = layers(*SHAPES[name], dtype)
    expected = alike_gradients(X, dZ, LAM)
    X[2][0, 0] = value
    found = alike_gradients(X, dZ, LAM)
    assert not found[2].isfinite().all()
    for index in (0, 1, 3, 4):
        assert torch.equal(found[index], expected[index])


@pytest.mark.parametrize("name", ["primal", "dual"])
def test_scales_that_overflow_when_squared_are_those_of_one_layer(name: str) -> None:
    X, dZ = layers(*SHAPES[name], torch.float64)
    X[1] = X[1] * 1e200
    X[3] = torch.zeros_like(X[3])
    found = alike_gradients(X, dZ, LAM)
    assert all(new.isfinite().all() for new in found)
    assert not found[3].any()
    for index in (0, 2, 4):
        assert error(found[index], closed_form(X[index], dZ[index])) <= 1e-12


def test_memory_does_not_grow_with_the_rows() -> None:
    def beside_the_result(rows: int) -> int:
        X = [torch.zeros(rows, 16) for _ in range(8)]
        dZ = [torch.zeros(rows, 4) for _ in X]
        return peak_memory(lambda: alike_gradients._init_fn(X, dZ, LAM))

    assert beside_the_result(200_000) <= 1.2 * beside_the_result(20_000)
    assert beside_the_result(1_000) <= 4 * 8 * module.MOST_STACKED


def test_the_operator_keeps_what_its_registration_says() -> None:
    torch.library.opcheck(alike_gradients, (*layers(24, 7, 5), LAM))
    torch.library.opcheck(alike_gradients, (*layers(6, 17, 5), LAM, True))
