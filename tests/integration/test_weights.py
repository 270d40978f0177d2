"""Weights that are computed, shared, frozen: rewritten at the effective weight, call by call."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from support.marks import codegen
from support.oracle import error, layer_gradient, squared, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

LAM = 0.1
X = torch.randn(6, 3, 9, 8)


def standardised(weight: Tensor) -> Tensor:
    dims = tuple(range(1, weight.dim()))
    return (weight - weight.mean(dims, keepdim=True)) / (weight.std(dims, keepdim=True) + 1e-5)


class Derived(nn.Module):
    """A convolution with a weight that a function computes from parameters."""

    def __init__(self, function: Callable[["Derived"], Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(x, self.function(self)))


def through_the_derivation(model: Derived, x: Tensor) -> dict[str, Tensor]:
    """The reference gradient of the effective weight, carried back to the parameters by autograd in float64."""
    twin = copy.deepcopy(model).double()
    weight = twin.function(twin)
    plain = nn.Sequential(nn.Conv2d(*weight.shape[1::-1], weight.shape[2:], bias=False), nn.Tanh()).double()
    plain[0].weight.data.copy_(weight.detach())
    weight.backward(tract_gradients(plain, [x], ["0"], LAM)["0"])
    return {name: item.grad for name, item in twin.named_parameters()}


W = torch.randn(4, 3, 3, 3)
DERIVED = {
    "standardised": Derived(lambda m: standardised(m.weight), weight=W),
    "with a gain": Derived(lambda m: standardised(m.weight) * m.gain, weight=W, gain=torch.rand(4, 1, 1, 1)),
    "low rank": Derived(
        lambda m: m.weight + (m.b @ m.a).view(4, 3, 3, 3), weight=W, b=torch.randn(4, 2), a=torch.randn(2, 27)
    ),
    "only low rank": Derived(lambda m: (m.b @ m.a).view(4, 3, 3, 3), b=torch.randn(4, 2), a=torch.randn(2, 27)),
    "a slice": Derived(lambda m: m.weight[:, :3], weight=torch.randn(4, 5, 3, 3)),
    "resized": Derived(lambda m: nn.functional.interpolate(m.weight, scale_factor=0.5, mode="bilinear"),
                       weight=torch.randn(4, 3, 8, 8)),
    "two parts": Derived(lambda m: torch.cat([m.a, m.b]), a=torch.randn(2, 3, 3, 3), b=torch.randn(2, 3, 3, 3)),
}  # fmt: skip


@works("derived")
@pytest.mark.parametrize("name", DERIVED)
def test_weights_computed_from_parameters(name: str) -> None:
    model, backend = DERIVED[name], tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [X], backend)
    assert len(backend.matches) == 1
    for parameter, gradient in through_the_derivation(model, X).items():
        assert error(found[parameter], gradient) <= 1e-5, parameter


@codegen
@works("derived")
def test_weight_standardisation_through_generated_code() -> None:
    model = DERIVED["with a gain"]
    found = gradients(model, [X], tract_backend(LAM))
    for parameter, gradient in through_the_derivation(model, X).items():
        assert error(found[parameter], gradient) <= 1e-5, parameter


class Scaled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1, 1) + 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def registered(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Scaled())
    return layer


PARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": lambda layer: parametrizations.spectral_norm(layer).eval(),  # no power iteration
    "parametrize": registered,
}


@works("parametrised")
@pytest.mark.parametrize("wrap", PARAMETRISED.values(), ids=PARAMETRISED)
def test_parametrised_weights(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.Tanh())
    backend = tract_backend(LAM, inner="aot_eager")
    twin = copy.deepcopy(model).double()
    output = twin[0](X.double())
    output.retain_grad()
    squared(twin[1](output)).backward()
    weight = twin[0].weight
    reference = layer_gradient(twin[0], X.double(), output.grad, LAM)
    names, parameters = zip(*((name, item) for name, item in twin.named_parameters() if name != "0.bias"), strict=True)
    expected = torch.autograd.grad(weight, parameters, reference, allow_unused=True)
    found = gradients(model, [X], backend)
    assert [match.layer for match in backend.matches] == ["0"]
    for name, gradient in zip(names, expected, strict=True):
        assert error(found[name], gradient) <= 1e-5, name


class Quantised(nn.Module):
    """Quantisation-aware training: weight and input are rounded, gradients go straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)
        weight = torch.fake_quantize_per_tensor_affine(self.conv.weight, 0.01, 0, -128, 127)
        return torch.tanh(nn.functional.conv2d(x, weight))


@works("derived")
def test_fake_quantised_weights() -> None:
    model, backend = Quantised(), tract_backend(LAM, inner="aot_eager")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Tanh())
    with torch.no_grad():
        x = torch.fake_quantize_per_tensor_affine(X, 0.05, 0, -128, 127)
        plain[0].weight.copy_(torch.fake_quantize_per_tensor_affine(model.conv.weight, 0.01, 0, -128, 127))
    found = gradients(model, [X], backend)
    assert error(found["conv.weight"], tract_gradients(plain, [x], ["0"], LAM)["0"]) <= 1e-5


class Called(nn.Module):
    """One stem, called on several inputs."""

    def __init__(self, penalised: bool) -> None:
        super().__init__()
        self.stem, self.penalised = nn.Linear(6, 6, bias=False), penalised

    def forward(self, *inputs: Tensor) -> Tensor:
        total = sum(
            torch.tanh(self.stem(x)).square().sum() + x.shape[0] * torch.tanh(self.stem(x)).sum() for x in inputs
        )
        return total + self.stem.weight.square().sum() if self.penalised else total


@works("shared")
@pytest.mark.parametrize("penalised", [False, True])
def test_each_call_has_its_own_rows(penalised: bool) -> None:
    """Also where the parameter has a plain gradient beside: that one stays plain."""
    model, inputs = Called(penalised), [torch.randn(9, 6), torch.randn(4, 5, 6), torch.randn(2, 6)]
    backend = tract_backend(LAM, inner="aot_eager")
    found = gradients(model, inputs, backend, loss=lambda value: value)
    expected = tract_gradients(model, inputs, ["stem"], LAM, loss=lambda value: value)["stem"]
    if penalised:
        expected = expected + 2 * model.stem.weight.double()
    assert len(backend.matches) == 6
    assert {match.form for match in backend.matches} == {"primal", "dual"}
    assert error(found["stem.weight"], expected) <= 1e-5


@works("shared")
def test_a_second_call_under_no_grad_is_nobody_s_gradient() -> None:
    """As in momentum encoders: the call that is not differentiated is reported, and no error."""

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                target = torch.tanh(self.stem(y))
            return (torch.tanh(self.stem(x)) - target).square().sum()

    model, x, y = Teacher(), torch.randn(9, 6), torch.randn(9, 6)
    backend = tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [x, y], backend, loss=lambda value: value)
    assert [match.rows for match in backend.matches] == [9]
    assert [rejection.kind for rejection in backend.rejections] == ["no gradient"]

    twin = copy.deepcopy(model).double()
    output = twin.stem(x.double())
    output.retain_grad()
    (torch.tanh(output) - torch.tanh(twin.stem(y.double())).detach()).square().sum().backward()
    assert error(found["stem.weight"], layer_gradient(twin.stem, x.double(), output.grad, LAM)) <= 1e-5


class Targeted(nn.Module):
    """A stem called twice on the same input: what one call returns is only looked at, or a target."""

    def __init__(self, stem: nn.Module, *, grad: bool, first: bool) -> None:
        super().__init__()
        self.stem, self.grad, self.first = stem, grad, first

    def target(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.grad):
            return torch.tanh(self.stem(x)).detach()

    def forward(self, x: Tensor) -> Tensor:
        target = self.target(x) if self.first else None
        found = torch.tanh(self.stem(x))
        target = self.target(x) if target is None else target
        return (found.square() - target).square().sum()


@works("shared")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.Linear])
def test_a_second_call_on_the_same_input_without_a_gradient(kind: type[nn.Module], first: bool, grad: bool) -> None:
    """Before or after the other call; under ``no_grad`` or detached."""
    stem, x = (nn.Linear(8, 4), X) if kind is nn.Linear else (kind(3, 4, 3), X)
    model, backend = Targeted(stem, grad=grad, first=first), tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [x], backend, loss=lambda value: value)
    assert len(backend.matches) == 1
    twin = copy.deepcopy(model).double()
    output = twin.stem(x.double())
    output.retain_grad()
    (torch.tanh(output).square() - torch.tanh(output).detach()).square().sum().backward()
    assert error(found["stem.weight"], layer_gradient(twin.stem, x.double(), output.grad, LAM)) <= 1e-5


@works("frozen")
def test_the_first_layer_that_trains_after_a_frozen_backbone() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = nn.Sequential(backbone.requires_grad_(False).eval(), nn.Linear(32, 5))
    backend = tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [X], backend)
    assert [match.weight for match in backend.matches] == ["1.weight"]
    assert error(found["1.weight"], tract_gradients(model, [X], ["1"], LAM)["1"]) <= 1e-5


@works("frozen")
def test_a_backbone_that_is_thawed_later() -> None:
    """The first layer is another one then. (Torch 2.11 itself does not notice the change, hence the reset.)"""
    model = nn.Sequential(nn.Conv2d(3, 8, 3).requires_grad_(False), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Tanh())
    backend = tract_backend(LAM, inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    for first in ("2", "0"):
        model.zero_grad()
        squared(compiled(X)).backward()
        assert backend.matches[-1].weight == f"{first}.weight"
        found = model.get_submodule(first).weight.grad
        assert error(found, tract_gradients(model, [X], [first], LAM)[first]) <= 1e-5
        model.requires_grad_(True)
        torch._dynamo.reset()
