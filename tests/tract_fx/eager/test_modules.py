"""A layer with TrAct stays the layer that it was: its class, its hooks, its names, its copies."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from support.oracle import error, layer_gradient, squared, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import (
    OptionError,
    TrAct,
    TrActLayer,
    UnknownLayerError,
    UnsupportedLayerError,
    apply_tract,
    reference,
    remove_tract,
    tract_backend,
)

LAM = 0.1
X = torch.randn(6, 3, 9, 8)


class Standardised(nn.Conv2d):
    """Calls the function itself, with a weight that it has computed."""

    def effective(self) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return (self.weight - mean) / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.effective(), bias=self.bias, padding=self.padding, stride=self.stride)


class Blurred(nn.Conv2d):
    """Blurs its input with a constant kernel first."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.register_buffer("kernel", torch.ones(3, 1, 3, 3) / 9)

    def blurred(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.blurred(x))


class ByHand(nn.Linear):
    """Multiplies by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class LowRank(nn.Linear):
    """Adds a second product behind the first."""

    def __init__(self) -> None:
        super().__init__(6, 4)
        self.down, self.up = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        linear = nn.functional.linear
        return super().forward(x) + linear(linear(x, self.down), self.up)


def step(layer: nn.Module, x: Tensor = X) -> Tensor:
    layer.zero_grad()
    output = layer(x)
    squared(torch.tanh(output)).backward()
    return output.detach()


def reference_of(layer: nn.Conv2d, x: Tensor = X, rows: Tensor | None = None, lam: float = LAM) -> Tensor:
    """Gradient of the effective weight of a plain convolution."""
    layer = remove_tract(copy.deepcopy(layer)).double()
    output = layer(x.double()).detach().requires_grad_()
    squared(torch.tanh(output)).backward()
    return layer_gradient(layer, x if rows is None else rows, output.grad, lam)


@works("eager")
def test_a_standardised_weight() -> None:
    layer = Standardised(3, 4, 3, padding=1)
    as_before = layer(X)
    assert torch.equal(step(TrAct(layer)), as_before)
    (expected,) = torch.autograd.grad(layer.effective(), layer.weight, reference_of(layer).float())
    assert error(layer.weight.grad, expected) <= 1e-5


@works("eager")
@pytest.mark.parametrize("name", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame", "Conv2dSame"])
def test_the_convolutions_of_timm(name: str) -> None:
    """Their own outputs, and the gradients that the backend gives them when they are compiled."""
    layer = getattr(timm.layers, name)(3, 4, 3, stride=2, bias=True)
    plain = copy.deepcopy(layer)
    wrapped = TrAct(layer)
    assert isinstance(wrapped, type(plain))
    assert torch.equal(step(wrapped), plain(X))
    found = gradients(nn.Sequential(plain, nn.Tanh()), [X], tract_backend(LAM, inner="aot_eager"))
    for name, parameter in layer.named_parameters():
        assert error(parameter.grad, found[f"0.{name}"]) <= 1e-5


@works("eager")
def test_a_constant_convolution_before_the_layer() -> None:
    layer = Blurred()
    step(TrAct(layer))
    plain = nn.Conv2d(3, 4, 3)
    plain.load_state_dict(layer.state_dict(), strict=False)
    assert error(layer.weight.grad, reference_of(plain, layer.blurred(X))) <= 1e-5


@works("eager")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrised_weight(make: Callable[[nn.Module], nn.Module], before: bool) -> None:
    """Whichever comes first; and the parametrisation can be taken off again."""
    layer = nn.Conv2d(3, 4, 3)
    plain = make(copy.deepcopy(layer))
    wrapped = TrAct(make(layer)) if before else make(TrAct(layer))
    wrapped.load_state_dict(plain.state_dict())
    assert torch.equal(step(wrapped), plain(X))
    effective = plain.eval().weight
    expected = torch.autograd.grad(effective, list(plain.parametrizations.parameters()), reference_of(plain).float())
    for parameter, gradient in zip(wrapped.parametrizations.parameters(), expected, strict=True):
        assert error(parameter.grad, gradient) <= 1e-4
    twin = copy.deepcopy(wrapped)
    assert parametrize.is_parametrized(twin)
    parametrize.remove_parametrizations(twin, "weight")
    assert type(twin) is type(TrAct(nn.Conv2d(3, 4, 3)))
    step(twin)
    assert error(twin.weight.grad, reference_of(twin)) <= 1e-5
    assert parametrize.is_parametrized(wrapped)


@works("eager")
def test_a_pruned_weight() -> None:
    layer = nn.Conv2d(3, 4, 3)
    wrapped = TrAct(layer)
    prune.l1_unstructured(wrapped, "weight", 0.5)
    step(wrapped)
    plain = nn.Conv2d(3, 4, 3)
    plain.load_state_dict({"weight": wrapped.weight, "bias": wrapped.bias})
    assert error(wrapped.weight_orig.grad, reference_of(plain) * wrapped.weight_mask) <= 1e-5


@works("eager")
def test_hooks_of_every_kind_still_run() -> None:
    layer, seen = nn.Conv2d(3, 4, 3), []
    handles = [
        layer.register_forward_pre_hook(lambda module, arguments: seen.append("before")),
        layer.register_forward_hook(lambda module, arguments, output: seen.append(module)),
        layer.register_full_backward_pre_hook(lambda module, gradient: seen.append("backward")),
        layer.register_full_backward_hook(lambda module, of_input, of_output: seen.append("done")),
    ]
    wrapped = TrAct(layer)
    step(wrapped, X.clone().requires_grad_())
    assert seen == ["before", wrapped, "backward", "done"]
    assert error(layer.weight.grad, reference_of(layer)) <= 1e-5
    for handle in handles:
        handle.remove()
    seen.clear()
    step(wrapped)
    assert seen == []


@works("eager")
def test_a_hook_that_changes_the_input() -> None:
    layer = nn.Conv2d(3, 4, 3)
    plain = copy.deepcopy(layer)
    layer.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    step(TrAct(layer))
    assert error(layer.weight.grad, reference_of(plain, 2 * X)) <= 1e-5


@works("eager")
def test_copies_and_pickles() -> None:
    model = nn.Sequential(TrAct(nn.Conv2d(3, 4, 3), lam=0.3))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    for twin in twins:
        assert type(twin[0]) is type(model[0])
        assert twin[0].lam == 0.3
        step(twin)
        assert error(twin[0].weight.grad, reference_of(model[0], lam=0.3)) <= 1e-5
        twin[0].lam = 0.7
    assert model[0].lam == 0.3


@works("eager")
def test_lam_is_settable_and_takes_effect_at_the_next_backward_pass() -> None:
    layer = TrAct(nn.Conv2d(3, 4, 3))
    assert layer.lam == layer.lambda_ == 0.1
    loss = squared(torch.tanh(layer(X)))
    layer.lam = 0.4
    loss.backward()
    assert error(layer.weight.grad, reference_of(layer, lam=0.4)) <= 1e-5
    with pytest.raises(OptionError, match=r"lam=-1.*greater than zero"):
        layer.lam = -1
    layer.lambda_ = 0.2
    assert layer.lam == 0.2
    assert "kernel_size=(3, 3), stride=(1, 1), lam=0.2" in repr(layer)


NOT = r"it is no linear layer or convolution of torch\.nn"
REFUSED = {
    "a model": (
        nn.Sequential(nn.Linear(6, 4)),
        rf"torch\.nn\.Sequential: {NOT}; apply TrAct to the layer inside .* input: 0 \(torch\.nn\.Linear, trainable\)",
    ),
    "many layers": (
        nn.Sequential(*(nn.Linear(2, 2).requires_grad_(False) for _ in range(6))),
        r"3 \(torch\.nn\.Linear\) and 2 more\.",
    ),
    "bilinear": (nn.Bilinear(3, 3, 4), rf"torch\.nn\.Bilinear: {NOT}, and has none inside"),
    "no module": ("conv1", rf"str: {NOT}\."),
}


@works("eager")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_wrapped(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=f"TrAct cannot be applied to .*{message}"):
        TrAct(module)


@works("eager")
def test_a_layer_whose_forward_was_replaced() -> None:
    layer = nn.Linear(6, 4)
    layer.forward = lambda x: x
    with pytest.raises(UnsupportedLayerError, match=r"its forward\(\) was replaced on this object; apply TrAct before"):
        TrAct(layer)


@works("eager")
def test_a_layer_that_uses_a_name_which_would_be_added() -> None:
    layer = nn.Linear(6, 4)
    layer.lam = 3
    with pytest.raises(
        UnsupportedLayerError, match=r"applied to torch\.nn\.Linear: it has an attribute lam of its own"
    ):
        TrAct(layer)


@works("eager")
def test_a_replica_of_data_parallel() -> None:
    """What ``nn.DataParallel`` makes for each device: copies of the parameters, which are no parameters."""
    wrapped = TrAct(nn.Conv2d(3, 4, 3))
    replica = wrapped._replicate_for_data_parallel()
    replica._former_parameters = {name: 1 * item for name, item in wrapped.named_parameters()}
    for name, item in replica._former_parameters.items():
        setattr(replica, name, item)
    squared(torch.tanh(replica(X))).backward()
    assert error(wrapped.weight.grad, reference_of(wrapped)) <= 1e-5


@works("eager")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ByHand(6, 4),
            r"the forward\(\) of \S*test_modules.TrActByHand has trainable weights, but calls no linear layer",
        ),
        (LowRank, r"LowRank: its forward\(\) has several layers with trainable weights"),
        (lambda: nn.Linear(6, 4, dtype=torch.complex64), "Linear: its weight is complex"),
    ],
)
def test_what_would_train_with_the_plain_gradient_is_an_error(make: Callable[[], nn.Module], message: str) -> None:
    layer = make()
    x = torch.randn(9, 6, dtype=layer.weight.dtype)
    output = layer(x)
    TrAct(layer)
    with pytest.raises(UnsupportedLayerError, match=message):
        layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), output)
    layer.requires_grad_(False)
    assert torch.equal(layer(x), output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l": 0.0}, "lam=0.0.*greater than zero"),
        ({"lam": "0.1"}, "lam='0.1' is a str"),
        ({"l": 0.1, "lam": 0.2}, "are the same argument"),
        ({"process_group": 3}, "process_group=3 is not allowed"),
    ],
)
def test_arguments_that_are_not_allowed(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrAct(nn.Linear(6, 4), **arguments)


class TwoNames(nn.Module):
    """Has its stem under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.first = self.stem[0]
        self.other = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stem(x).mean((2, 3)), torch.tanh(self.other(x[:, 0].flatten(1)))])


@works("eager")
def test_layers_of_a_model_by_name() -> None:
    model = TwoNames()
    plain, keys = copy.deepcopy(model), list(model.state_dict())
    assert apply_tract(model, ["stem.0", "other"], lam=0.3) is model
    assert model.first is model.stem[0]
    assert list(model.state_dict()) == keys
    squared(model(X)).backward()
    expected = tract_gradients(plain, [X], ["stem.0", "other"], 0.3)
    assert error(model.first.weight.grad, expected["stem.0"]) <= 1e-5
    assert error(model.other.weight.grad, expected["other"]) <= 1e-5
    assert isinstance(apply_tract(TwoNames(), "other").other, TrActLayer)


@works("eager")
def test_names_that_are_wrong_change_nothing() -> None:
    model = TwoNames()
    with pytest.raises(UnknownLayerError, match=r"'stem.1.conv'.*no module of that name; did you mean 'stem.1'"):
        apply_tract(model, ["other", "stem.1.conv"])
    with pytest.raises(
        UnsupportedLayerError, match=r"applied to stem \(torch\.nn\.Sequential\): .*stem\.0 \(torch\.nn\.Conv2d"
    ):
        apply_tract(model, ["other", "stem"])
    assert not any(isinstance(module, TrActLayer) for module in model.modules())


def test_the_oracle_of_this_file() -> None:
    """The reference of a convolution by another way: rows by hand."""
    layer = nn.Conv2d(3, 4, 2, stride=2)
    x = torch.randn(6, 3, 8, 8)
    rows = nn.functional.unfold(x.double(), 2, stride=2).transpose(1, 2).flatten(0, 1)
    output = layer(x).detach().double().requires_grad_()
    squared(torch.tanh(output)).backward()
    expected = reference.primal(rows, output.grad.flatten(2).transpose(1, 2).flatten(0, 1), LAM)
    assert error(reference_of(layer, x), expected.reshape(4, 3, 2, 2)) <= 1e-5
