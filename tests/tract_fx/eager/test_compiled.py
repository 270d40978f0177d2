"""A layer with TrAct inside ``torch.compile``: the same gradient, applied once, whatever the backend."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.marks import codegen
from support.oracle import error, squared, tract_gradients
from support.training import Counter
from support.works import works
from tract_fx import TrAct, TractWarning, remove_tract, tract_backend

LAM = 0.1
CASES = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (6, 3, 9, 8)),
    "convolution, few rows": (lambda: nn.Conv2d(3, 4, 4, stride=4), (2, 3, 9, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), (3, 3, 4, 5)),
    "linear": (lambda: nn.Linear(6, 4), (9, 6)),
    "linear, few rows": (lambda: nn.Linear(12, 4), (7, 12)),
}


def network(name: str) -> tuple[nn.Sequential, Tensor]:
    make, shape = CASES[name]
    return nn.Sequential(TrAct(make(), LAM), nn.Tanh()), torch.randn(shape)


def step(call: Any, model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    squared(call(x)).backward()
    return model[0].weight.grad


def plain(model: nn.Sequential) -> nn.Sequential:
    """The same weights without TrAct."""
    return remove_tract(copy.deepcopy(model))


@works("eager")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, backend) for name in CASES for backend in ("eager", "aot_eager")),
        *(pytest.param(name, "inductor", marks=codegen) for name in ("convolution", "linear, few rows")),
    ],
)
def test_other_backends(name: str, backend: str) -> None:
    """In one graph, which a change of ``lam`` does not compile again."""
    model, x = network(name)
    counter = Counter(torch._dynamo.lookup_backend(backend))
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for lam in (LAM, 0.5, 0.02):
        model[0].lam = lam
        assert error(step(compiled, model, x), tract_gradients(plain(model), [x], ["0"], lam)["0"]) <= 1e-5
    assert counter.graphs == 1


@works("eager")
def test_sizes_that_change() -> None:
    """Two graphs: one for the first size, and one for all others."""
    model, _ = network("convolution")
    counter = Counter(torch._dynamo.lookup_backend("aot_eager"))
    compiled = torch.compile(model, backend=counter)
    for batch in (6, 7, 5, 11):
        x = torch.randn(batch, 3, 9, 8)
        assert error(step(compiled, model, x), tract_gradients(plain(model), [x], ["0"], LAM)["0"]) <= 1e-5
    assert counter.graphs == 2


@works("eager")
def test_a_model_that_is_compiled_already() -> None:
    """The code compiled for the plain layer does not run for the layer with TrAct, nor the other way round."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), torch.randn(6, 3, 9, 8)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = step(compiled, model, x).clone()
    TrAct(model[0], LAM)
    assert error(step(compiled, model, x), tract_gradients(plain(model), [x], ["0"], LAM)["0"]) <= 1e-5
    remove_tract(model)
    assert torch.equal(step(compiled, model, x), before)


@works("eager")
@pytest.mark.parametrize(
    ("name", "inner"),
    [*((name, "aot_eager") for name in CASES), pytest.param("convolution", "inductor", marks=codegen)],
)
def test_under_the_backend_of_this_package_it_is_an_error(name: str, inner: str) -> None:
    """Each has a ``lam`` of its own, and only one of them can be meant."""
    model, x = network(name)
    compiled = torch.compile(model, backend=tract_backend(0.5, inner=inner))
    message = r"applied to 0 \(\w+\): it is wrapped in tract_fx.TrAct already, which.*Compile the model with another"
    with pytest.raises(Exception, match=message):
        step(compiled, model, x)


@works("eager")
@pytest.mark.parametrize("name", CASES)
def test_and_otherwise_the_wrapper_s_gradient_stands(name: str) -> None:
    model, x = network(name)
    compiled = torch.compile(model, backend=tract_backend(0.5, inner="aot_eager", on_unsupported="warn"))
    with pytest.warns(TractWarning, match="it is wrapped in tract_fx.TrAct already"):
        found = step(compiled, model, x)
    assert error(found, tract_gradients(plain(model), [x], ["0"], LAM)["0"]) <= 1e-5


@works("eager")
def test_a_wrapped_layer_further_in_and_a_first_layer_that_the_backend_rewrites() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), TrAct(nn.Conv2d(4, 5, 3), LAM), nn.Tanh())
    x = torch.randn(6, 3, 9, 8)
    backend = tract_backend(0.5, inner="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        squared(torch.compile(model, backend=backend)(x)).backward()
    bare = nn.Sequential(*model[:2], *plain(model[2:]))
    assert [match.weight for match in backend.matches] == ["0.weight"]
    assert error(model[0].weight.grad, tract_gradients(bare, [x], ["0"], 0.5)["0"]) <= 1e-5
    assert error(model[2].weight.grad, tract_gradients(bare, [x], ["2"], LAM)["2"]) <= 1e-5


@works("eager")
def test_an_exported_model_computes_what_the_plain_one_does() -> None:
    model, x = network("convolution")
    exported = torch.export.export(model.eval(), (x,)).module()
    assert torch.equal(exported(x), plain(model)(x))
