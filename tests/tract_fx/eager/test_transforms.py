"""Forward mode, ensembles, second derivatives, and what traces a model: right, or an error that names the layer."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torchvision.models.feature_extraction import create_feature_extractor

from support.oracle import error, squared, tract_gradients
from support.works import works
from tract_fx import TrAct, TrActLayer, TractWarning, UnsupportedLayerError, apply_tract, remove_tract

LAM = 0.1
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (9, 6)),
    "linear, few rows": (lambda: nn.Linear(12, 4), (7, 12)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (6, 3, 9, 8)),
    "conv 1d, groups, no bias": (lambda: nn.Conv1d(4, 6, 3, groups=2, bias=False), (5, 4, 20)),
}


def networks(name: str) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """With TrAct and plain, with the same weights, and an input."""
    make, shape = LAYERS[name]
    plain = nn.Sequential(make(), nn.Tanh())
    return apply_tract(copy.deepcopy(plain), ["0"], LAM), plain, torch.randn(shape)


@works("eager")
@pytest.mark.parametrize("name", LAYERS)
def test_forward_mode(name: str) -> None:
    """In the input and in the parameters, the tangent is the plain layer's."""
    model, plain, x = networks(name)
    tangents = {name: torch.randn_like(item) for name, item in plain.named_parameters()}

    def both(network: nn.Module) -> tuple[Tensor, ...]:
        parameters = dict(network.named_parameters())
        call = lambda parameters, x: functional_call(network, parameters, (x,))  # noqa: E731
        return (
            *torch.func.jvp(lambda x: network(x), (x,), (torch.ones_like(x),)),
            *torch.func.jvp(call, (parameters, x), (tangents, torch.ones_like(x))),
            *torch.func.jvp(lambda parameters: call(parameters, x), (parameters,), (tangents,)),
        )

    for found, expected in zip(both(model), both(plain), strict=True):
        assert error(found, expected) <= 1e-6


@works("eager")
def test_a_loss_with_a_detached_tangent_trains() -> None:
    model, plain, x = networks("conv")

    def loss(network: nn.Module) -> Tensor:
        output, tangent = torch.func.jvp(lambda x: network(x), (x,), (torch.ones_like(x),))
        return (output - tangent.detach()).square().mean()

    loss(model).backward()
    (tangent,) = torch.func.jvp(lambda x: plain(x), (x,), (torch.ones_like(x),))[1:]
    expected = tract_gradients(plain, [x], ["0"], LAM, lambda z: (z - tangent.detach()).square().mean())["0"]
    assert error(model[0].weight.grad, expected) <= 1e-5


@works("eager")
def test_a_loss_of_a_tangent_is_an_error() -> None:
    model, plain, x = networks("conv")
    loss = lambda network: squared(torch.func.jvp(lambda x: network(x), (x,), (torch.ones_like(x),))[1])  # noqa: E731
    with pytest.raises(UnsupportedLayerError, match=r"applied to 0 \(torch.nn.Conv2d\): .*forward-mode.*Detach"):
        loss(model).backward()
    model.requires_grad_(False)
    assert torch.equal(loss(model), loss(plain))


@works("eager")
@pytest.mark.parametrize("name", LAYERS)
def test_an_ensemble_with_stacked_parameters(name: str) -> None:
    """``torch.vmap`` over parameters that require grad outside of it: each member has its own gradient."""
    members, plain, inputs = zip(*(networks(name) for _ in range(3)), strict=True)
    parameters, _ = stack_module_state(list(members))
    total = torch.vmap(lambda parameters: squared(functional_call(members[0], parameters, (inputs[0],))))(parameters)
    total.sum().backward()
    for index, member in enumerate(plain):
        expected = tract_gradients(member, [inputs[0]], ["0"], LAM)["0"]
        assert error(parameters["0.weight"].grad[index], expected) <= 1e-5


SECOND = r"applied to 0 \(torch.nn.Conv2d\): the loss differentiates its gradients again.*remove_tract"


@works("eager")
@pytest.mark.parametrize("linear", [True, False])
def test_a_second_derivative_is_an_error(linear: bool) -> None:
    """Also where the gradient of the output is a constant, and plain PyTorch would return a plain gradient."""
    model, plain, x = networks("conv")
    x.requires_grad_()
    last = torch.sum if linear else squared
    with pytest.raises(UnsupportedLayerError, match=SECOND):
        _penalty(model[0] if linear else model, last, x).backward()
    _penalty(plain[0] if linear else plain, last, x).backward()
    remove_tract(model)
    _penalty(model, squared, x).backward()


def _penalty(model: nn.Module, last: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(last(model(x)), x, create_graph=True)
    return gradient.square().sum()


@works("eager")
def test_a_second_derivative_of_torch_func_is_an_error() -> None:
    model, _, x = networks("conv")
    with pytest.raises(UnsupportedLayerError, match=SECOND):
        torch.func.grad(lambda x: torch.func.grad(lambda x: squared(model(x)))(x).square().sum())(x)
    first = torch.func.grad(lambda x: squared(model(x)))(x)
    assert error(first, torch.func.grad(lambda x: squared(remove_tract(model)(x)))(x)) <= 1e-6


@works("eager")
@pytest.mark.parametrize("trained", [True, False])
def test_traced_by_torch_fx(trained: bool) -> None:
    """The layer is a leaf, as the plain one, and the graph module trains with TrAct."""
    model, plain, x = networks("conv")
    traced = torch.fx.symbolic_trace(model.train(trained))
    assert isinstance(traced.get_submodule("0"), TrActLayer)
    squared(traced(x)).backward()
    assert error(traced.get_submodule("0").weight.grad, tract_gradients(plain, [x], ["0"], LAM)["0"]) <= 1e-5


class Own(nn.Conv2d):
    """A class that does not belong to PyTorch, and so is no leaf of its tracer."""


@works("eager")
def test_a_layer_that_torch_fx_traces_through() -> None:
    model = nn.Sequential(TrAct(Own(3, 4, 3)), nn.Tanh())
    with pytest.raises(UnsupportedLayerError, match=r"Own: torch\.fx traces through its forward.*leaf_modules"):
        torch.fx.symbolic_trace(model)

    extractor = create_feature_extractor(model, ["1"], tracer_kwargs={"leaf_modules": [TrActLayer]})
    assert isinstance(extractor.get_submodule("0"), TrActLayer)


@works("eager")
def test_scripted() -> None:
    """The plain layer, also in the model itself: ``torch.jit.script`` does not work on a copy."""
    model, plain, x = networks("conv")
    with pytest.warns(
        TractWarning, match=r"not applied to 0 \(torch\.nn\.Conv2d\): torch\.jit\.script takes TrAct off"
    ):
        scripted = torch.jit.script(model)
    assert torch.equal(scripted(x), plain(x))
    assert type(model[0]) is nn.Conv2d


@works("eager")
def test_traced_by_torch_jit() -> None:
    model, plain, x = networks("conv")
    with pytest.warns(TractWarning, match=r"torch\.jit\.trace records the plain layer"):
        traced = torch.jit.trace(model, (x,))
    assert torch.equal(traced(x), plain(x))
    assert isinstance(model[0], TrActLayer)


@works("eager")
@pytest.mark.parametrize("trained", [True, False])
def test_exported(trained: bool) -> None:
    model, plain, x = networks("conv")
    exported = torch.export.export(model.train(trained), (x,)).module()
    assert torch.equal(exported(x), plain(x))
