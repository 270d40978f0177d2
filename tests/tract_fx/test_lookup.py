"""The backend of a compiled model is found, however it was compiled."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from support.oracle import error, squared, tract_gradients
from support.python import run
from tract_fx import BackendGroup, CosineLam, OptionError, TractBackend, backend_of, tract_backend

X = torch.randn(6, 3, 9, 8)
BY_NAME = {"inner": "aot_eager", "lam": 0.3}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    gc.collect()  # the backends of models that are gone


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = network()[0], network()[3]

    def features(self, x: Tensor) -> Tensor:
        return self.stem(x).tanh().flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def assert_lam_can_be_set(compiled: nn.Module, model: nn.Module, layer: str) -> None:
    """Before the first step, after it, and by a schedule, without another compile."""
    found = backend_of(compiled)
    assert found.matches == ()
    for lam in (0.7, 0.02):
        backend_of(compiled).lam = lam
        model.zero_grad()
        squared(compiled(X)).backward()
        assert error(model.get_submodule(layer).weight.grad, tract_gradients(model, [X], [layer], lam)[layer]) <= 1e-5
    assert [match.weight for match in backend_of(compiled).matches] == [f"{layer}.weight"]
    assert backend_of(compiled) is found
    CosineLam(backend_of(compiled), 3, start=0.05)
    assert found.lam == pytest.approx(0.05)


def test_of_a_model_compiled_by_name() -> None:
    model = Net()
    compiled = torch.compile(model, backend="tract", options=BY_NAME)
    assert backend_of(compiled).lam == 0.3
    assert_lam_can_be_set(compiled, model, "stem")
    assert backend_of(model) is backend_of(compiled)  # the plain module, once it has trained


def test_of_a_model_compiled_in_place() -> None:
    model = Net()
    model.compile(backend="tract", options=BY_NAME)
    assert_lam_can_be_set(model, model, "stem")


def test_of_a_model_compiled_with_an_object() -> None:
    backend = tract_backend(inner="aot_eager")
    plain, in_place = Net(), Net()
    compiled = torch.compile(plain, backend=backend)
    in_place.compile(backend=backend)
    assert backend_of(compiled) is backend_of(plain) is backend_of(in_place) is backend
    assert backend_of(nn.Sequential(compiled)) is backend


def test_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACT_FX_LAM", "0.4")
    monkeypatch.setenv("TRACT_FX_INNER", "aot_eager")
    model = Net()
    compiled = torch.compile(model, backend="tract")
    assert backend_of(compiled).lam == 0.4
    assert_lam_can_be_set(compiled, model, "stem")


def test_of_parts() -> None:
    model = Net()
    model.stem.compile(backend="tract", options=BY_NAME)
    model.head.compile(backend="tract", options=BY_NAME)
    assert isinstance(backend_of(model), TractBackend)
    model.head = torch.compile(model.head, backend=tract_backend(0.2, inner="aot_eager"))
    found = backend_of(model)
    assert isinstance(found, BackendGroup)
    assert [backend.lam for backend in found.backends] == [0.3, 0.2]
    found.lam = 0.6
    assert [backend.lam for backend in found.backends] == [0.6, 0.6]
    with pytest.raises(OptionError, match="lam=-1"):
        found.lam = -1
    assert found.lam == 0.6
    CosineLam(found, 3, start=0.05)
    assert found.lam == pytest.approx(0.05)
    assert found.matches == found.rejections == ()


def test_of_parts_that_are_compiled_in_place_and_elsewhere() -> None:
    model = Net()
    model.stem.compile(backend=tract_backend(0.3, inner="aot_eager"))
    head = torch.compile(model.head, backend=tract_backend(0.2, inner="aot_eager"))
    found = backend_of(model)
    assert isinstance(found, BackendGroup)
    assert [backend.lam for backend in found.backends] == [0.3, 0.2]
    again = tract_backend(0.1, inner="aot_eager")
    assert backend_of(torch.compile(head._orig_mod, backend=again)) is again
    assert backend_of(head).lam == 0.2  # what another call of torch.compile was given counts for what it returned
    whole = tract_backend(0.4, inner="aot_eager")
    assert [backend.lam for backend in backend_of(torch.compile(model, backend=whole)).backends] == [0.4, 0.3]


def test_of_a_method_and_of_a_function() -> None:
    backend = tract_backend(inner="aot_eager")
    model, other = Net(), Net()
    model.features = torch.compile(model.features, backend=backend)
    assert backend_of(model) is backend

    @torch.compile(backend="tract", options=BY_NAME)
    def step() -> Tensor:
        return squared(other(X))

    assert backend_of(step).lam == 0.3
    step().backward()
    assert backend_of(other) is backend_of(step)


def test_two_models_that_share_code_share_the_backend() -> None:
    first, second = Net(), Net()
    for model in (first, second):
        model.compile(backend="tract", options=BY_NAME)
        squared(model(X)).backward()
    assert backend_of(first) is backend_of(second)
    backend_of(second).lam = 0.8
    second.zero_grad()
    squared(second(X)).backward()
    assert error(second.stem.weight.grad, tract_gradients(second, [X], ["stem"], 0.8)["stem"]) <= 1e-5


LATER = """
import gc, torch
from tract_fx import backend_of

def compiled():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    model.compile(backend="tract", options={"inner": "aot_eager", "lam": 0.3})
    return model

first = compiled()
assert backend_of(first).lam == 0.3
first(torch.ones(4, 3)).sum().backward()
backend_of(first).lam = 0.9
assert backend_of(compiled()).lam == 0.9  # they share code
del first
torch._dynamo.reset()
gc.collect()
assert backend_of(compiled()).lam == 0.3
"""


@pytest.mark.slow  # in a process of its own: pytest keeps log records, and these keep the model
def test_a_later_model_starts_with_the_lam_of_its_options(tmp_path: Path) -> None:
    run(LATER, tmp_path)


def test_resetting_dynamo_forgets_the_findings() -> None:
    model = Net()
    model.compile(backend="tract", options=BY_NAME)
    squared(model(X)).backward()
    found = backend_of(model)
    assert found.matches
    torch._dynamo.reset()
    assert found.matches == ()


@pytest.mark.parametrize("backend", [None, "eager"])
def test_there_is_none(backend: str | None) -> None:
    model = Net()
    if backend is not None:
        model.compile(backend=backend)
    with pytest.raises(OptionError, match=r"^No part of Net was compiled with a backend of tract-fx\. Compile it"):
        backend_of(model)
    with pytest.raises(OptionError, match="No part of squared was compiled"):
        backend_of(squared)
