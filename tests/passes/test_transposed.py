"""Transposed convolutions in joint graphs, against the reference on the input with zeros between its pixels."""

import copy

import pytest
import torch
from torch import nn

from support.graphs import joint_graph
from support.marks import INNERS
from support.oracle import error, tract_gradients
from support.training import gradients
from support.transposed_shapes import LAYERS
from support.works import works
from tract_fx import tract_backend
from tract_fx.passes.first_layer import Form, System, find

pytestmark = works("transposed")
LAM = 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_every_geometry(name: str) -> None:
    layer, shape = LAYERS[name]
    model, x = nn.Sequential(copy.deepcopy(layer), nn.Tanh()), torch.randn(shape)
    backend = tract_backend(LAM, inner="aot_eager")
    plain, found = gradients(model, [x]), gradients(model, [x], backend)
    assert [match.weight for match in backend.matches] == ["0.weight"]
    assert error(found.pop("0.weight"), tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5
    assert all(error(found[item], plain[item]) <= 1e-6 for item in found)


@pytest.mark.parametrize("inner", INNERS[1:])
@pytest.mark.parametrize("name", ["generator", "latent code", "few codes", "output padding", "volume, groups"])
def test_generated_code(name: str, inner: str) -> None:
    test = LAYERS[name]
    model, x = nn.Sequential(copy.deepcopy(test[0]), nn.Tanh()), torch.randn(test[1])
    found = gradients(model, [x], tract_backend(LAM, inner=inner))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@pytest.mark.parametrize("inner", INNERS)
def test_sizes_of_the_batch_and_of_the_image_that_change(inner: str) -> None:
    """One graph with symbolic sizes, and one more for an image of one pixel.

    Generated code is given other batches only: plain Inductor of 2.11 fails at other images.
    """
    shapes = {"aot_eager": ((5, 6, 7), (4, 8, 9), (2, 2, 3), (7, 1, 1)), "inductor": ((5, 6, 7), (4, 6, 7), (9, 6, 7))}[
        inner
    ]
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, (4, 3), stride=(2, 3), padding=1, output_padding=(0, 1)), nn.Tanh())
    twin, backend = copy.deepcopy(model), tract_backend(LAM, inner=inner)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=backend, dynamic=True)
    for batch, *size in shapes:
        x = torch.randn(batch, 3, *size)
        twin.zero_grad()
        output = compiled(x)
        (output.pow(2).sum() + output.sum()).backward()
        assert error(twin[0].weight.grad, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5, size
    assert len(backend.matches) == len({tuple(size) == (1, 1) for _, *size in shapes})
    assert isinstance(backend.matches[0].rows, str)


@pytest.mark.parametrize("layout", ["channels last", "strided"])
def test_layouts(layout: str) -> None:
    layer, shape = LAYERS["generator"]
    x = torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if layout == "channels last" else x.transpose(2, 3).contiguous().mT
    model = nn.Sequential(copy.deepcopy(layer), nn.Tanh())
    if layout == "channels last":
        model = model.to(memory_format=torch.channels_last)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


def test_few_rows_are_solved_by_their_number() -> None:
    layer, shape = LAYERS["few codes"]
    (match,) = find(joint_graph(nn.Sequential(copy.deepcopy(layer), nn.Tanh()), torch.randn(shape))).matches
    assert (match.rows, match.features, match.form) == (48, 96, Form.DUAL)
    assert match.systems == (System(3, 6, 16),)


def test_the_gradient_is_the_best_step_of_the_preactivations() -> None:
    """Equation 6 by brute force: no other change of the weight has a smaller value, whatever the rows are called."""
    layer = nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1, bias=False)
    model, x = nn.Sequential(copy.deepcopy(layer), nn.Tanh()), torch.randn(4, 2, 3)
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))["0.weight"].double()
    twin, x = copy.deepcopy(layer).double(), x.double()
    output = twin(x)
    (wanted,) = torch.autograd.grad(output.tanh().pow(2).sum() + output.tanh().sum(), output)
    rows = output.numel() // 3

    def value(change: torch.Tensor) -> torch.Tensor:
        made = nn.functional.conv_transpose1d(x, change, None, 2, 1, 1)
        return (rows * wanted - made).pow(2).sum() + LAM * rows * change.pow(2).sum()

    change = torch.zeros_like(twin.weight, requires_grad=True)
    optimiser = torch.optim.LBFGS([change], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        result = value(change)
        result.backward()
        return result

    optimiser.step(step)
    assert error(found, change.detach()) <= 1e-5
