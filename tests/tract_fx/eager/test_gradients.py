"""Without a compiler: the weight's gradient is the reference's, and everything else is the plain layer's bit by bit."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, squared, tract_gradients
from support.works import works
from tract_fx import TrAct, reference, remove_tract

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (32, 6)),
    "linear, no bias": (nn.Linear(6, 5, bias=False), (32, 6)),
    "linear, 4d": (nn.Linear(6, 5), (2, 3, 4, 6)),
    "linear, few rows": (nn.Linear(12, 5), (7, 12)),
    "linear, one row": (nn.Linear(6, 5), (6,)),
    "conv 1d": (nn.Conv1d(4, 6, 5, stride=2, padding=1, dilation=2), (5, 4, 33)),
    "conv 1d, unbatched": (nn.Conv1d(1, 6, 10, stride=5), (1, 300)),
    "conv": (nn.Conv2d(3, 5, (3, 5), stride=(2, 1), padding=(1, 2)), (4, 3, 9, 8)),
    "conv, no bias": (nn.Conv2d(3, 5, 3, bias=False), (4, 3, 9, 8)),
    "conv, unbatched": (nn.Conv2d(3, 5, 3, padding=1), (3, 9, 8)),
    "conv, groups": (nn.Conv2d(6, 4, 3, groups=2), (4, 6, 9, 8)),
    "conv, depthwise": (nn.Conv2d(3, 6, 3, groups=3), (4, 3, 9, 8)),
    "conv, dilation": (nn.Conv2d(3, 5, 3, dilation=2), (4, 3, 9, 8)),
    "conv, valid": (nn.Conv2d(3, 5, 3, padding="valid"), (4, 3, 9, 8)),
    "conv, same": (nn.Conv2d(3, 5, 3, padding="same", dilation=(1, 2)), (4, 3, 9, 8)),
    "conv, same, even": (nn.Conv2d(3, 5, (2, 4), padding="same"), (4, 3, 9, 8)),
    "conv, reflect": (nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="reflect"), (4, 3, 9, 8)),
    "conv, circular, same": (nn.Conv2d(3, 5, 3, padding="same", padding_mode="circular"), (4, 3, 9, 8)),
    "conv, patches": (nn.Conv2d(3, 5, 4, stride=4), (16, 3, 8, 8)),
    "conv, few rows": (nn.Conv2d(3, 5, 4, stride=4), (2, 3, 8, 8)),
    "conv, few rows, groups": (nn.Conv2d(4, 6, 4, groups=2), (2, 4, 5, 5)),
    "conv 3d": (nn.Conv3d(3, 4, (2, 3, 3), padding=(1, 0, 1), groups=1), (2, 3, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1, output_padding=(1, 0)), (3, 4, 5, 4)),
    "transposed, groups": (nn.ConvTranspose2d(4, 6, (3, 2), 2, dilation=(1, 3), groups=2, bias=False), (3, 4, 5, 4)),
    "transposed, latent codes": (nn.ConvTranspose2d(6, 5, 4), (9, 6, 1, 1)),
    "transposed, few rows": (nn.ConvTranspose2d(24, 3, 3, stride=2), (1, 24, 2, 1)),
    "transposed 1d, unbatched": (nn.ConvTranspose1d(3, 4, 5, stride=2), (3, 9)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, (4, 3, 2), 2, (1, 1, 0), (0, 1, 0)), (2, 2, 3, 2, 4)),
    "conv 3d, replicate": (nn.Conv3d(2, 4, 3, padding=1, padding_mode="replicate"), (2, 2, 4, 5, 6)),
}


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Output and gradient of the input to the last bit; that of the bias, which is summed on its own, to rounding."""
    assert all(map(torch.equal, found[:2], expected[:2]))
    assert all(error(bias, plain) <= 1e-6 for bias, plain in zip(found[2:], expected[2:], strict=False))


def run(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Output, and gradients of input, bias and weight, of one step that a non-linearity ends."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    output = layer(x)
    squared(torch.tanh(output)).backward()
    found = (output.detach(), x.grad, *(item.grad for item in (layer.bias, layer.weight) if item is not None))
    return tuple(item.clone() for item in found)


def expected(layer: nn.Module, x: Tensor, lam: float = 0.1) -> Tensor:
    plain = remove_tract(copy.deepcopy(layer))
    return tract_gradients(nn.Sequential(plain, nn.Tanh()), [x], ["0"], lam)["0"]


@works("eager")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lam", [0.05, 0.5])
def test_only_the_gradient_of_the_weight_changes(name: str, lam: float) -> None:
    plain, shape = LAYERS[name]
    layer, x = copy.deepcopy(plain), torch.randn(shape)
    *others, weight = run(TrAct(layer, lam), x)
    *as_before, before = run(plain, x)
    assert_same(others, as_before)
    assert error(weight, expected(plain, x, lam)) <= 1e-5
    assert error(weight, before) > 1e-2


@works("eager")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "linear, few rows", "conv", "conv, groups", "conv, few rows", "transposed"])
def test_modules_of_other_dtypes(name: str, dtype: torch.dtype) -> None:
    """In a narrow dtype no worse than twice the plain gradient's own error."""
    layer, shape = LAYERS[name]
    layer, x = copy.deepcopy(layer).to(dtype), torch.randn(shape).to(dtype)
    exact, plain = copy.deepcopy(layer).double(), run(copy.deepcopy(layer), x)[-1]
    found = run(TrAct(layer), x)[-1]
    own = error(plain, run(copy.deepcopy(exact), x.double())[-1])
    assert found.dtype == dtype
    assert error(found, expected(exact, x.double())) <= max(2 * own, 1e-9)


@works("eager")
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layouts_of_memory(layout: torch.memory_format) -> None:
    """Of input and weight, and of an input that is a part of something; the gradient has the weight's."""
    layer = nn.Conv2d(3, 5, 3).to(memory_format=layout)
    whole = torch.randn(4, 6, 9, 18).to(memory_format=layout)
    for x in (whole[:, :3, :, :9].contiguous(memory_format=layout), whole[:, ::2, :, ::2]):
        plain = copy.deepcopy(remove_tract(layer))
        *others, weight = run(TrAct(layer), x)
        assert_same(others, run(plain, x))
        assert error(weight, expected(plain, x)) <= 1e-5
        assert layer.weight.grad.stride() == layer.weight.stride()


@works("eager")
def test_rows_that_are_not_contiguous() -> None:
    layer, x = nn.Linear(6, 5), torch.randn(6, 9, 4).permute(2, 1, 0)
    assert error(run(TrAct(layer), x)[-1], expected(layer, x)) <= 1e-5


@works("eager")
@pytest.mark.parametrize("name", ["linear", "conv", "conv, same, even"])
def test_an_empty_batch(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer)
    squared(TrAct(layer)(torch.randn(0, *shape[1:]))).backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@works("eager")
@pytest.mark.parametrize("scale", [0.0, 1e-30, 255.0, 1e15])
def test_inputs_of_any_scale(scale: float) -> None:
    """Also constant ones: never NaN."""
    layer = nn.Conv2d(3, 5, 4, stride=4)
    for x in (scale * torch.rand(8, 3, 16, 16), torch.full((8, 3, 16, 16), scale)):
        layer.zero_grad()
        (1e-3 * torch.tanh(TrAct(layer)(x))).sum().backward()
        assert layer.weight.grad.isfinite().all()


@works("eager")
def test_a_layer_that_is_called_twice() -> None:
    """Each call with its own rows, as the authors' module does it."""
    layer, inputs = nn.Linear(6, 5), [torch.randn(9, 6), 3 * torch.randn(12, 6)]
    wrapped = TrAct(layer)
    outputs = [wrapped(x) for x in inputs]
    gradients = [torch.randn_like(output) for output in outputs]
    torch.autograd.backward(outputs, gradients)
    assert error(layer.weight.grad, sum_of_references(inputs, gradients)) <= 1e-5


def sum_of_references(inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    return sum(reference.linear_gradient(x, z, 0.1) for x, z in zip(inputs, gradients, strict=True))


@works("eager")
@pytest.mark.parametrize("name", ["linear", "linear, few rows", "conv"])
def test_only_what_requires_grad_has_a_gradient(name: str) -> None:
    layer, shape = LAYERS[name]
    layer, x = copy.deepcopy(layer), torch.randn(shape)
    wrapped = TrAct(layer)
    layer.weight.requires_grad_(False)
    squared(wrapped(x)).backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    layer.weight.requires_grad_(True)
    layer.bias.requires_grad_(False)
    layer.zero_grad()
    squared(torch.tanh(wrapped(x))).backward()
    assert layer.bias.grad is None
    assert error(layer.weight.grad, expected(layer, x)) <= 1e-5
