"""The whole backend on a GPU, with Inductor's code generation: gradients, modes, mixed precision."""

import copy

import pytest
import torch
from torch import nn

from support.oracle import error, squared, tract_gradients
from support.training import gradients
from tract_fx import tract_backend

LAM = 0.1
MODELS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3)), (16, 3, 20, 20)),
    "imagenet stem": (
        lambda: nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.Tanh()),
        (8, 3, 64, 64),
    ),
    "vit stem": (lambda: nn.Sequential(nn.Conv2d(3, 48, 16, 16), nn.Flatten(2), nn.GELU()), (32, 3, 96, 96)),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.Tanh()), (8, 8, 16, 16)),
    "audio": (lambda: nn.Sequential(nn.Conv1d(1, 32, 10, 5), nn.Tanh()), (4, 1, 4000)),
    "video": (lambda: nn.Sequential(nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)), nn.Tanh()), (8, 3, 4, 32, 32)),
    "linear": (lambda: nn.Sequential(nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10)), (2048, 784)),
    "dual": (lambda: nn.Sequential(nn.Linear(784, 64), nn.Tanh()), (128, 784)),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, shape = MODELS[name]
    return model().cuda(), torch.randn(shape, device="cuda")


@pytest.fixture(autouse=True)
def full_precision() -> None:
    """Without TF32, whose error in the plain gradient is larger than what is tested."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", MODELS)
def test_gradients(name: str) -> None:
    model, x = make(name)
    plain = gradients(model, [x], "inductor")  # forgets what backends reported before
    backend = tract_backend(LAM)
    found = gradients(model, [x], backend)
    assert len(backend.matches) == 1
    assert error(found["0.weight"], tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5
    for key, value in plain.items():
        if key != "0.weight":
            assert error(found[key], value) <= 1e-5, key


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
@pytest.mark.parametrize("name", ["conv", "vit stem", "linear"])
def test_modes(name: str, mode: str) -> None:
    model, x = make(name)
    backend = tract_backend(LAM, mode=mode)
    compiled = torch.compile(copy.deepcopy(model), backend=backend)
    for step in range(6):  # cudagraphs are recorded at the second or third step
        compiled.zero_grad(set_to_none=True)
        batch = x.roll(step, 0) * (1 + step)
        torch.compiler.cudagraph_mark_step_begin()
        squared(compiled(batch)).backward()
        found = compiled.get_parameter("_orig_mod.0.weight").grad
        assert error(found, tract_gradients(model, [batch], ["0"], LAM)["0"]) <= 1e-5, step


class Autocast(nn.Module):
    """A model under autocast."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", self.dtype):
            return self.model(x).float()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["conv", "imagenet stem", "vit stem"])
def test_autocast(name: str, dtype: torch.dtype, memory: torch.memory_format) -> None:
    model, x = make(name)
    model, x = model[:1].to(memory_format=memory), x.to(memory_format=memory)
    twin = copy.deepcopy(model).double()
    squared(twin(x.double())).backward()
    autocast = Autocast(model, dtype)
    own = error(gradients(autocast, [x], "inductor")["model.0.weight"], twin[0].weight.grad)
    backend = tract_backend(LAM)
    found = gradients(autocast, [x], backend)["model.0.weight"]
    assert len(backend.matches) == 1
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 2 * own


def test_a_gradient_scaler() -> None:
    model, x = make("conv")
    compiled = torch.compile(Autocast(model, torch.float16), backend=tract_backend(LAM))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler.scale(compiled(x).square().mean()).backward()
    scaler.unscale_(optimizer)
    found = model[0].weight.grad.clone()
    scaler.step(optimizer)
    scaler.update()
    expected = tract_gradients(model, [x], ["0"], LAM, lambda output: output.square().mean())["0"]
    assert error(found, expected) <= 2e-2
    assert scaler.get_scale() == 2.0**10
    with torch.no_grad():
        x[0, 0, 0, 0] = float("inf")
    optimizer.zero_grad()
    scaler.scale(compiled(x).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**10


@pytest.mark.parametrize("name", ["imagenet stem", "vit stem", "linear"])
def test_the_same_bits_each_time(name: str) -> None:
    model, x = make(name)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first, second = (gradients(model, [x], tract_backend(LAM))["0.weight"] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)


def test_one_graph_serves_every_batch_size() -> None:
    model, x = make("conv")
    backend = tract_backend(LAM)
    compiled = torch.compile(copy.deepcopy(model), backend=backend, dynamic=True)
    for batch in (16, 5, 9):
        compiled.zero_grad(set_to_none=True)
        squared(compiled(x[:batch])).backward()
        found = compiled.get_parameter("_orig_mod.0.weight").grad
        assert error(found, tract_gradients(model, [x[:batch]], ["0"], LAM)["0"]) <= 1e-5
