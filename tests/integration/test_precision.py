"""Under reduced precision the error is at most twice that of the plain compiled gradient."""

import copy

import pytest
import torch
from support.marks import INNERS
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from torch import nn

from tract_fx import tract_backend

LAM = 0.1


class Autocast(nn.Module):
    """A model under autocast."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", self.dtype):
            return self.model(x).float()


LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 5, 3, padding=1), (16, 3, 9, 8)),
    "patches": (lambda: nn.Conv2d(3, 5, 4, stride=4), (64, 3, 12, 8)),
    "linear": (lambda: nn.Linear(6, 5), (64, 6)),
    "dual": (lambda: nn.Linear(40, 5), (7, 40)),
}


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name: str, dtype: torch.dtype, inner: str) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make(), nn.Tanh()), torch.randn(shape)
    check(model, Autocast(model, dtype), x, "model.0.weight", inner)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_modules_in_low_precision(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make(), nn.Tanh()).to(dtype), torch.randn(shape, dtype=dtype)
    check(model, model, x, "0.weight", "aot_eager")


def check(exact: nn.Module, model: nn.Module, x: torch.Tensor, weight: str, inner: str) -> None:
    """``exact`` is the model without autocast; both share their parameters."""
    twin = copy.deepcopy(exact).double()
    squared(twin(x.double())).backward()
    own = error(gradients(model, [x], inner)[weight], twin[0].weight.grad)
    backend = tract_backend(LAM, inner=inner)
    found = gradients(model, [x], backend)[weight]
    assert len(backend.matches) == 1
    assert found.dtype == dict(model.named_parameters())[weight].dtype
    assert error(found, tract_gradients(exact, [x], ["0"], LAM)["0"]) <= 2 * own


def test_float64() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh()).double(), torch.randn(4, 3, 9, 8).double()
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-12


def test_channels_last_and_strided_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh())
    for x in (
        torch.randn(4, 3, 9, 8).to(memory_format=torch.channels_last),
        torch.randn(4, 3, 18, 16)[:, :, ::2, ::2],
        torch.randn(4, 9, 8, 3).permute(0, 3, 1, 2),
    ):
        found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
        assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5
