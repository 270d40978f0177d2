"""TrAct changes the layer itself, can be taken off again, and leaves a layer that other libraries can rebuild."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from support.oracle import error, squared, tract_gradients
from support.works import works
from tract_fx import OptionError, TrAct, TrActLayer, apply_tract, remove_tract

LAM = 0.1
X = torch.randn(6, 3, 9, 8)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())


def gradient(model: nn.Module, x: Tensor = X) -> Tensor:
    model.zero_grad()
    squared(model(x)).backward()
    return model[0].weight.grad.clone()


def expected(model: nn.Sequential, lam: float = LAM) -> Tensor:
    plain = network()
    plain.load_state_dict(model.state_dict())
    return tract_gradients(plain, [X], ["0"], lam)["0"]


@works("eager")
def test_without_an_assignment() -> None:
    model = network()
    layer, optimizer = model[0], torch.optim.SGD(model.parameters(), lr=0.1)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    assert TrAct(layer) is layer is model[0]
    assert isinstance(layer, TrActLayer)
    assert isinstance(layer, nn.Conv2d)
    assert list(model.state_dict()) == keys
    assert [id(item) for item in model.parameters()] == [id(item) for item in parameters]
    assert error(gradient(model), expected(model)) <= 1e-5
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


@works("eager")
def test_a_layer_that_has_it_already_gets_the_new_values() -> None:
    model = network()
    TrAct(model[0], process_group="ddp")
    assert TrAct(model[0], 0.3) is model[0]
    assert (model[0].lam, model[0].process_group) == (0.3, None)
    assert len([base for base in type(model[0]).__mro__ if base is TrActLayer]) == 1
    assert error(gradient(model), expected(model, 0.3)) <= 1e-5


@works("eager")
@pytest.mark.parametrize("whole", [True, False])
def test_taken_off_again(whole: bool) -> None:
    model = network()
    as_before, attributes = gradient(model), set(vars(model[0]))
    apply_tract(model, ["0"])
    assert error(gradient(model), as_before) > 1e-2
    part = model if whole else model[0]
    assert remove_tract(part) is part
    assert type(model[0]) is nn.Conv2d
    assert set(vars(model[0])) == attributes
    assert torch.equal(gradient(model), as_before)
    assert remove_tract(model) is model  # a second time changes nothing


@works("eager")
def test_taken_off_a_parametrised_layer() -> None:
    """The parametrisation stays, whichever of the two was first."""
    for make in (
        lambda: TrAct(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        lambda: parametrizations.weight_norm(TrAct(nn.Conv2d(3, 4, 3))),
    ):
        layer = make()
        output = layer(X)
        remove_tract(layer)
        assert parametrize.is_parametrized(layer)
        assert not isinstance(layer, TrActLayer)
        assert torch.equal(layer(X), output)
        parametrize.remove_parametrizations(layer, "weight")
        assert type(layer) is nn.Conv2d


def test_taken_off_what_is_no_module() -> None:
    with pytest.raises(OptionError, match=r"model_or_layer='conv1' is a str: it must be an nn.Module"):
        remove_tract("conv1")


@works("eager")
def test_rebuilt_from_its_class() -> None:
    """As adapters and pruning tools do: a working layer with the default ``lam``."""
    layer = TrAct(nn.Conv2d(3, 8, 3), 0.5)
    model = nn.Sequential(type(layer)(3, 4, kernel_size=3, bias=True), nn.Tanh())
    assert model[0].lam == LAM
    assert inspect.signature(type(layer)) == inspect.signature(nn.Conv2d)
    assert error(gradient(model), expected(model)) <= 1e-5
    model[0].lam = 0.3
    assert (layer.lam, type(layer)(3, 4, 3).lam) == (0.5, LAM)
    skipped = nn.utils.skip_init(type(layer), 3, 4, 3)
    skipped.load_state_dict(model[0].state_dict())
    assert error(gradient(nn.Sequential(skipped, nn.Tanh())), expected(model)) <= 1e-5


@works("eager")
def test_built_on_the_meta_device() -> None:
    model = network()
    with torch.device("meta"):
        empty = apply_tract(network(), ["0"], 0.3)
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert error(gradient(empty), expected(model, 0.3)) <= 1e-5
    empty.load_state_dict(copy.deepcopy(model).state_dict(), assign=True)
    assert error(gradient(empty), expected(model, 0.3)) <= 1e-5


@works("eager")
def test_parameters_that_are_swapped() -> None:
    """``torch.__future__`` swaps the contents of parameters when a module changes its dtype."""
    model = apply_tract(network(), ["0"])
    before = expected(model)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert error(gradient(model, X.double()), before) <= 1e-5


@works("eager")
@pytest.mark.parametrize("pickled", [True, False])
def test_a_lazy_layer_before_its_first_batch(pickled: bool) -> None:
    model = nn.Sequential(TrAct(nn.LazyConv2d(4, 3), 0.3), nn.Tanh())
    if pickled:
        model = pickle.loads(pickle.dumps(model))
    first = gradient(model)
    assert type(model[0]) is type(TrAct(nn.Conv2d(3, 4, 3)))
    assert error(first, expected(model, 0.3)) <= 1e-5
    assert type(remove_tract(model)[0]) is nn.Conv2d
    assert type(remove_tract(TrAct(nn.LazyConv2d(4, 3)))) is nn.LazyConv2d


@works("eager")
def test_what_it_says_of_itself() -> None:
    layer = TrAct(nn.Conv2d(3, 4, 3), 0.2)
    assert repr(layer) == "TrActConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), lam=0.2)"
    assert (type(layer).__module__, type(layer).__doc__) == (nn.Conv2d.__module__, nn.Conv2d.__doc__)
