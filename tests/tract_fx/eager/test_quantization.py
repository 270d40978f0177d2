"""``torch.ao.quantization`` looks up modules by their exact type: trained with TrAct, then quantised, in every order."""

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

from support.oracle import error, layer_gradient, squared
from support.works import works
from tract_fx import TrActLayer, apply_tract, remove_tract

LAM = 0.1
X = torch.randn(4, 3, 8, 8)


class Network(nn.Module):
    """With the stubs that mark where numbers are quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.norm, self.relu, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.head(self.relu(self.norm(self.conv(self.quant(x)))).mean((2, 3))))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the deprecation warnings of torch.ao, and with an engine that this machine has."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.backends.quantized.engine = engine


def network(*, fused: bool) -> nn.Module:
    torch.manual_seed(0)
    model = Network().train()
    model.qconfig = ao.get_default_qat_qconfig(torch.backends.quantized.engine)
    return ao.fuse_modules_qat(model, ["conv", "norm", "relu"]) if fused else model


def prepared(order: str, *, fused: bool = False) -> nn.Module:
    if order == "TrAct first":
        return ao.prepare_qat(apply_tract(network(fused=fused), ["conv"], LAM))
    return apply_tract(ao.prepare_qat(network(fused=fused)), ["conv"], LAM)


@works("eager")
@pytest.mark.parametrize("order", ["TrAct first", "prepare_qat first"])
def test_training_with_fake_quantisation(order: str) -> None:
    """At the effective weight: fake quantisation passes the gradient on to the parameter where nothing was clamped."""
    model = prepared(order)
    assert isinstance(model.conv, TrActLayer)
    assert model.conv.lam == LAM
    seen = {}
    model.conv.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], z=output))
    output = model(X)
    weight = model.conv.weight_fake_quant(model.conv.weight)
    squared(output).backward()
    plain = nn.Conv2d(3, 8, 3)
    found = model.conv.weight.grad.clone()
    z = (nn.functional.conv2d(seen["x"], weight.detach(), model.conv.bias)).detach().requires_grad_()
    squared(
        model.dequant(model.head(model.relu(model.norm(model.conv.activation_post_process(z))).mean((2, 3))))
    ).backward()
    assert error(found, layer_gradient(plain, seen["x"], z.grad, LAM)) <= 1e-4


@works("eager")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("taken_off", [True, False])
def test_quantised_after_training(fused: bool, taken_off: bool) -> None:
    """``convert`` makes the int8 layer, and the model computes what the one computes that never had TrAct."""
    model = prepared("prepare_qat first", fused=fused)
    squared(model(X)).backward()
    plain = remove_tract(copy.deepcopy(model))
    converted = ao.convert((remove_tract(model) if taken_off else model).eval())
    assert type(converted.conv).__module__.startswith("torch.ao.nn")
    assert "quantized" in type(converted.conv).__module__
    assert torch.equal(converted(X), ao.convert(plain.eval())(X))


@works("eager")
@pytest.mark.parametrize("taken_off", [True, False])
def test_quantised_without_further_training(taken_off: bool) -> None:
    model = apply_tract(Network(), ["conv"], LAM).eval()
    plain = remove_tract(copy.deepcopy(model))
    results = []
    for item in (remove_tract(model) if taken_off else model, plain):
        item.qconfig = ao.get_default_qconfig(torch.backends.quantized.engine)
        observed = ao.prepare(item)
        observed(X)
        results.append(ao.convert(observed))
    assert type(results[0].conv) is type(results[1].conv)
    assert torch.equal(results[0](X), results[1](X))


@works("eager")
def test_quantised_while_it_runs() -> None:
    """``quantize_dynamic`` is given classes by the user: TrAct has to be taken off first."""
    model = remove_tract(apply_tract(Network(), ["head"], LAM)).eval()
    assert "dynamic" in type(ao.quantize_dynamic(model, {nn.Linear}).head).__module__
