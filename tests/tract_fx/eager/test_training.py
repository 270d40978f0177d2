"""What trainings do around a layer: autocast, scalers, checkpoints, transforms, engines, hooks on saved tensors."""

import copy
from typing import Any

import pytest
import torch
import torch_tract
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.memory import peak_memory
from support.oracle import error, squared, tract_gradients
from support.works import works
from tract_fx import TrAct

LAM = 0.1
X = torch.randn(6, 3, 9, 8, generator=torch.Generator().manual_seed(0))


def plain_network(*, inplace: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Flatten(), nn.Linear(168, 3))


def network(*, inplace: bool = True) -> nn.Sequential:
    """What comes next writes over the layer's output."""
    model = plain_network(inplace=inplace)
    model[0] = TrAct(model[0], LAM)
    return model


def expected(x: Tensor = X) -> Tensor:
    return tract_gradients(plain_network(inplace=False), [x], ["0"], LAM)["0"]


@works("eager")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", ["many", "few"])
def test_under_autocast(dtype: torch.dtype, rows: str) -> None:
    """In float32, and no worse than twice the error of the plain gradient; everything else is bitwise the plain one's."""
    layer, x = (nn.Conv2d(3, 4, 3), X) if rows == "many" else (nn.Linear(40, 4), torch.randn(7, 40))
    plain, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
    wrapped = TrAct(layer, LAM)
    found, before = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        output, as_before = wrapped(found), plain(before)
    weights = torch.randn(output.shape)
    for item in (output, as_before):
        (item.float() * weights).sum().backward()
    assert torch.equal(output, as_before)
    assert torch.equal(found.grad, before.grad)
    assert torch.equal(layer.bias.grad, plain.bias.grad)
    assert layer.weight.grad.dtype == torch.float32
    (exact(x.double()) * weights).sum().backward()
    reference = tract_gradients(nn.Sequential(exact), [x], ["0"], LAM, lambda z: (z * weights).sum())["0"]
    own = error(plain.weight.grad, exact.weight.grad)
    assert error(layer.weight.grad, reference) <= 2 * own


@works("eager")
def test_the_backward_pass_inside_autocast() -> None:
    """Covariance and solve are not narrowed there."""
    model = network()
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        loss = squared(model(X))
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    # The gradient of the output comes from the head, whose own backward pass autocast does narrow.
    assert error(model[0].weight.grad, expected()) <= 2e-2
    layer, x = nn.Linear(6, 4), torch.randn(9, 6)
    plain = copy.deepcopy(layer)
    output = TrAct(layer, LAM)(x)
    with torch.autocast("cpu", torch.bfloat16):
        output.backward(torch.ones_like(output))
    weight = tract_gradients(nn.Sequential(plain), [x], ["0"], LAM, torch.sum)["0"]
    assert error(layer.weight.grad, weight) <= 1e-5


@works("eager")
def test_a_scaler_for_float16() -> None:
    """It unscales, and skips a step whose gradients have overflown."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for factor, skipped in ((1e-3, False), (1e6, True)):
        optimizer.zero_grad()
        before = copy.deepcopy(model[0].weight)
        with torch.autocast("cpu", torch.float16):
            output = model(X)
        scaler.scale(squared(output.float()) * factor).backward()
        scaler.unscale_(optimizer)
        if not skipped:
            assert error(model[0].weight.grad, factor * expected()) <= 5e-3
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model[0].weight, before) is skipped


@works("eager")
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_around_the_layer(reentrant: bool) -> None:
    model = network()
    x = X.clone().requires_grad_(reentrant)  # the reentrant one needs an input that requires grad
    squared(model[2:](checkpoint(model[:2], x, use_reentrant=reentrant))).backward()
    assert error(model[0].weight.grad, expected()) <= 1e-5


@works("eager")
def test_accumulation_is_the_sum_over_the_micro_batches() -> None:
    model, parts = network(), X.split(2)
    for part in parts:
        squared(model(part)).backward()
    assert error(model[0].weight.grad, sum(map(expected, parts))) <= 1e-5


@works("eager")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_is_the_plain_layer(mode: Any) -> None:
    model = network().eval()
    with mode():
        assert torch.equal(model(X), plain_network()(X))
    assert model[0](X).requires_grad  # gradients may be wanted in eval(), too


@works("eager")
def test_a_layer_inside_of_the_model() -> None:
    """Its input is an activation; the gradient goes on as the plain one."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Tanh())
    model = copy.deepcopy(plain)
    TrAct(model[2], LAM)
    for item in (model, plain):
        squared(item(X)).backward()
    found, as_before = ([item.grad for item in network.parameters()] for network in (model, plain))
    assert [torch.equal(*pair) for pair in zip(found, as_before, strict=True)] == [True, True, False, True]
    assert error(found[2], tract_gradients(plain, [X], ["2"], LAM)["2"]) <= 1e-5


@works("eager")
def test_functional_gradients() -> None:
    model = network()
    weights = dict(model.named_parameters())
    found = torch.func.grad(lambda weights: squared(torch.func.functional_call(model, weights, (X,))))(weights)
    assert error(found["0.weight"], expected()) <= 1e-5


@works("eager")
def test_gradients_of_every_sample() -> None:
    """Each with the covariance of its own rows; what a function of vmap's own returned cannot be written over."""
    model = network(inplace=False)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return squared(torch.func.functional_call(model, weights, (x[None],)))

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), X)["0.weight"]
    for x, gradient in zip(X, found, strict=True):
        assert error(gradient, expected(x[None])) <= 1e-5


def test_a_weight_that_has_changed_since_the_forward_pass_is_an_error() -> None:
    """As for the plain layer."""
    model, x = network(), X.clone().requires_grad_()
    loss = squared(model(x))
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@works("eager")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["convolution", "linear"])
def test_no_more_is_kept_for_the_backward_pass(name: str, autocast: bool) -> None:
    """Bytes of different storages, the parameters' apart, as the plain layer has them."""
    layer, x = {
        "convolution": (nn.Conv2d(3, 4, 3), X),
        "linear": (nn.Linear(40, 4), torch.randn(70, 40)),
    }[name]
    as_before = kept(layer, x, autocast)
    assert kept(TrAct(layer), x, autocast) <= as_before + LAM_BYTES


LAM_BYTES = 8


@works("eager")
def test_few_rows_take_a_system_of_their_own_number() -> None:
    """A covariance of 3,000 features would take 72 MB."""
    layer, x = TrAct(nn.Linear(3000, 4)), torch.randn(5, 3000)
    assert peak_memory(lambda: squared(layer(x)).backward()) < 2e6


@works("eager")
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 32), (7, 2, 64), (4, 4, 64)])
def test_less_memory_than_the_authors_module_takes(kernel: int, stride: int, size: int) -> None:
    """For a convolution, which they unfold."""
    layer, x = nn.Conv2d(3, 8, kernel, stride), torch.randn(16, 3, size, size)

    def peak(module: nn.Module) -> int:
        def step() -> None:
            module.zero_grad()
            module(x).square().sum().backward()

        step()  # what is made only once
        return peak_memory(step)

    theirs = peak(torch_tract.TrAct(copy.deepcopy(layer)))
    assert peak(TrAct(layer)) < 0.8 * theirs


def kept(layer: nn.Module, x: Tensor, autocast: bool) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not any(tensor.data_ptr() == item.data_ptr() for item in layer.parameters()):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with saving, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(x)
    assert output.requires_grad
    return sum(storages.values())
