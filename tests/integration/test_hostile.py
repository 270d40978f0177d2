"""Promise 4: never NaN from finite inputs, whatever their scale, and right on raw pixels."""

import pytest
import torch
from torch import nn

from support.marks import INNERS, vectorised
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import reference, tract_backend

pytestmark = vectorised

LAM = 0.1


def bounded(output: torch.Tensor) -> torch.Tensor:
    """A loss whose gradient stays finite whatever the output."""
    return torch.sigmoid(output / output.detach().abs().amax().clamp(min=1e-30)).sum()


def textured(batch: int, size: int) -> torch.Tensor:
    """Raw pixels as integers 0..255 with the correlation between neighbours that photographs have."""
    coarse = torch.rand(batch, 3, size // 4, size // 4)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (255 * (0.9 * smooth + 0.1 * torch.rand_like(smooth))).clamp(0, 255).round()


HOSTILE = {
    "all zeros": lambda: torch.zeros(4, 3, 12, 12),
    "one value": lambda: torch.full((4, 3, 12, 12), 200.0),
    "duplicated channels": lambda: torch.randn(4, 1, 12, 12).expand(4, 3, 12, 12).contiguous(),
    "raw pixels": lambda: textured(4, 12),
    "scale 1e-30": lambda: 1e-30 * torch.randn(4, 3, 12, 12),
    "scale 1e30": lambda: 1e30 * torch.randn(4, 3, 12, 12),
    "one value of 1e30": lambda: torch.full((4, 3, 12, 12), 1e30),
    "one image": lambda: torch.randn(1, 3, 4, 4),
}
STEMS = {
    "overlapping": lambda: nn.Conv2d(3, 5, 3, padding=1, bias=False),
    "patches": lambda: nn.Conv2d(3, 5, 4, stride=4, bias=False),
}


@works("hostile")
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", HOSTILE)
def test_finite_inputs_give_finite_gradients(name: str, stem: str) -> None:
    model, x = nn.Sequential(STEMS[stem]()), HOSTILE[name]()
    plain = gradients(model, [x], "aot_eager", loss=bounded)["0.weight"]
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"), loss=bounded)["0.weight"]
    assert plain.isfinite().all(), "the case means nothing"
    assert found.isfinite().all()
    if name in ("all zeros", "scale 1e-30"):  # no covariance to speak of: G / lam
        assert error(found, plain.double() / LAM) <= 1e-5


@pytest.mark.parametrize("rows", [9, 3], ids=["primal", "dual"])
@pytest.mark.parametrize("exponent", [600, 100])
def test_float64_inputs_whose_squares_leave_float64(exponent: int, rows: int) -> None:
    """Inputs scaled by ``s`` give ``1 / s`` times the gradient of the inputs themselves at ``lam / s^2``."""
    model, x = nn.Sequential(nn.Linear(6, 4, bias=False)).double(), torch.randn(rows, 6).double()
    output_gradient = torch.randn(rows, 4).double()
    scaled, backend = 2.0**exponent * x, tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [scaled], backend, loss=lambda z: (z * output_gradient).sum())["0.weight"]
    form = reference.primal if rows > 6 else reference.dual
    expected = form(x, output_gradient, LAM * 4.0**-exponent if exponent < 500 else 0.0)
    assert error(found * 2.0**exponent, expected) <= 1e-9


def test_float64_inputs_whose_squares_are_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4, bias=False)).double(), 2.0**-600 * torch.randn(9, 6).double()
    plain = gradients(model, [x], "aot_eager", loss=torch.sum)["0.weight"]
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"), loss=torch.sum)["0.weight"]
    assert error(found * 2.0**600, plain * 2.0**600 / LAM) <= 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("inner", INNERS)
def test_nan_and_infinity_reach_the_gradient(bad: float, inner: str) -> None:
    """So that a loss scaler or a NaN check still sees them."""
    x = torch.randn(4, 3, 12, 12)
    x[1, 2, 5, 5] = bad
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    assert not gradients(model, [x], tract_backend(LAM, inner=inner))["0.weight"].isfinite().all()


@works("hostile")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("stem", STEMS)
def test_raw_pixels_are_right_and_not_only_finite(stem: str, inner: str) -> None:
    """At most three times the error that rounding the plain gradient to float32 causes by itself."""
    model, x = nn.Sequential(STEMS[stem]()), textured(16, 32)
    found = gradients(model, [x], tract_backend(LAM, inner=inner))["0.weight"]
    expected = tract_gradients(model, [x], ["0"], LAM)["0"]
    assert error(found, expected) <= 3 * floor(model, x)


def floor(model: nn.Sequential, x: torch.Tensor) -> float:
    """Error of the reference when its plain gradient is the one that float32 computes."""
    twin = nn.Sequential(type(model[0])(3, 5, model[0].kernel_size, model[0].stride, model[0].padding, bias=False))
    twin.load_state_dict(model.state_dict())
    plain32 = gradients(twin, [x], "aot_eager")["0.weight"].double().flatten(1)
    plain64 = gradients(twin.double(), [x.double()], "aot_eager")["0.weight"].flatten(1)
    features = plain64.shape[1]
    one_hot = torch.eye(features, dtype=torch.float64).reshape(features, *model[0].weight.shape[1:])
    rows = nn.functional.conv2d(x.double(), one_hot, stride=model[0].stride, padding=model[0].padding)
    rows = rows.flatten(2).transpose(1, 2).flatten(0, 1)
    system = rows.T @ rows / rows.shape[0] + LAM * torch.eye(features, dtype=torch.float64)
    return error(*(torch.linalg.solve(system, plain, left=False) for plain in (plain32, plain64)))


@works("few rows")
def test_one_row() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(1, 6)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@works("few rows")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)).to(dtype), torch.randn(0, 3, 9, 9, dtype=dtype)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"), loss=squared)["0.weight"]
    assert found.isfinite().all()
