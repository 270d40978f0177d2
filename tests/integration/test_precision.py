"""Under reduced precision the error is at most twice that of the plain compiled gradient."""

import copy

import pytest
import torch
from torch import nn

from support.marks import INNERS, codegen
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from support.works import works
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


@works("autocast")
@pytest.mark.parametrize(
    ("name", "dtype", "inner"),
    [
        *((name, dtype, "aot_eager") for name in LAYERS for dtype in (torch.bfloat16, torch.float16)),
        *(pytest.param(name, torch.bfloat16, "inductor", marks=codegen) for name in ("conv", "dual")),
        pytest.param("linear", torch.float16, "inductor", marks=codegen),
    ],
)
def test_autocast(name: str, dtype: torch.dtype, inner: str) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make(), nn.Tanh()), torch.randn(shape)
    check(model, Autocast(model, dtype), x, "model.0.weight", inner)


@works("low precision")
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


@works("float64")
def test_float64() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh()).double(), torch.randn(4, 3, 9, 8).double()
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-12


@works("layouts")
def test_channels_last_and_strided_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh())
    for x in (
        torch.randn(4, 3, 9, 8).to(memory_format=torch.channels_last),
        torch.randn(4, 3, 18, 16)[:, :, ::2, ::2],
        torch.randn(4, 9, 8, 3).permute(0, 3, 1, 2),
    ):
        found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
        assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@works("autocast")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_autocast_around_the_compiled_model(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make(), nn.Tanh()), torch.randn(shape)

    def outside(backend: object) -> torch.Tensor:
        twin = copy.deepcopy(model)
        compiled = torch.compile(twin, backend=backend)
        with torch.autocast("cpu", dtype):
            output = compiled(x)
        squared(output.float()).backward()
        return twin[0].weight.grad

    exact = copy.deepcopy(model).double()
    squared(exact(x.double())).backward()
    own = error(outside("aot_eager"), exact[0].weight.grad)
    found = outside(tract_backend(LAM, inner="aot_eager"))
    assert found.dtype == torch.float32
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 2 * own


@works("scaler")
@pytest.mark.parametrize("inner", INNERS)
def test_float16_with_a_gradient_scaler(inner: str) -> None:
    """The rewrite is linear in the gradient: scaling the loss and unscaling the gradients change nothing."""
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh()), torch.randn(16, 3, 9, 8)
    exact = copy.deepcopy(model).double()
    squared(exact(x.double())).backward()

    def scaled(backend: object) -> tuple[torch.Tensor, float]:
        twin = copy.deepcopy(model)
        optimizer, scaler = torch.optim.SGD(twin.parameters(), lr=1e-3), torch.amp.GradScaler("cpu", init_scale=8.0)
        output = torch.compile(Autocast(twin, torch.float16), backend=backend)(x)
        scaler.scale(squared(output)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return twin[0].weight.grad, scaler.get_scale()

    (plain, plain_scale), (found, scale) = scaled(inner), scaled(tract_backend(LAM, inner=inner))
    own = error(plain, exact[0].weight.grad)
    assert scale == plain_scale == 8.0, "nothing overflowed"
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 2 * own


@works("scaler")
def test_an_overflow_is_seen_by_the_scaler() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh()), torch.randn(16, 3, 9, 8)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-3), torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = model[0].weight.detach().clone()
    output = torch.compile(Autocast(model, torch.float16), backend=tract_backend(LAM, inner="aot_eager"))(x)
    scaler.scale(squared(output)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**39
    assert torch.equal(model[0].weight, before)


class Normalised(nn.Module):
    """Takes images as they come from a file."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.autocast = autocast
        self.register_buffer("mean", torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1))
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return torch.tanh(self.conv((x - self.mean) / 60)).float()


@works("integers")
@pytest.mark.parametrize(
    ("autocast", "inner"), [(False, "aot_eager"), (True, "aot_eager"), pytest.param(True, "inductor", marks=codegen)]
)
def test_uint8_images_that_the_model_normalises(autocast: bool, inner: str) -> None:
    x = torch.randint(0, 256, (16, 3, 9, 8), dtype=torch.uint8)
    model = Normalised(autocast)
    exact = Normalised(False).double()
    exact.load_state_dict(model.state_dict())
    squared(exact(x)).backward()
    own = error(gradients(model, [x], inner)["conv.weight"], exact.conv.weight.grad)
    found = gradients(model, [x], tract_backend(LAM, inner=inner))["conv.weight"]
    assert error(found, tract_gradients(exact, [x], ["conv"], LAM)["conv"]) <= (2 * own if autocast else 1e-5)


@works("layouts")
def test_channels_last_under_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh()).to(memory_format=torch.channels_last)
    x = torch.randn(16, 3, 9, 8).to(memory_format=torch.channels_last)
    check(model, Autocast(model, torch.bfloat16), x, "model.0.weight", "aot_eager")
