"""The whole backend on a GPU, with Inductor's code generation: gradients, modes, a gradient scaler, batch sizes."""

import copy

import pytest
import torch

from gpu.models import DEVICE, LAM, MODELS, Autocast, make
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from tract_fx import tract_backend


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


def test_a_gradient_scaler() -> None:
    model, x = make("conv")
    compiled = torch.compile(Autocast(model, torch.float16), backend=tract_backend(LAM))
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
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


@pytest.mark.parametrize("mode", ["max-autotune", "max-autotune-no-cudagraphs"])
def test_modes(mode: str) -> None:
    """A linear layer: templates for convolutions take half a minute to compile and measure."""
    model, x = make("linear")
    backend = tract_backend(LAM, mode=mode)
    compiled = torch.compile(copy.deepcopy(model), backend=backend)
    for step in range(6):  # cudagraphs are recorded at the second or third step
        compiled.zero_grad(set_to_none=True)
        batch = x.roll(step, 0) * (1 + step)
        torch.compiler.cudagraph_mark_step_begin()
        squared(compiled(batch)).backward()
        found = compiled.get_parameter("_orig_mod.0.weight").grad
        assert error(found, tract_gradients(model, [batch], ["0"], LAM)["0"]) <= 1e-5, step
