"""Models that reach the compiler in pieces or through wrappers: names are those of the state_dict, and warnings are true."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from tract_fx import TractWarning, tract_backend

X = torch.randn(9, 6)


class Net(nn.Module):
    """Two layers, also called by another method."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)))


class Outer(nn.Module):
    """Reads the layers of its part as if they were its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)))


def step(model: nn.Module, loss: Tensor) -> list[str]:
    """One step of an optimiser; returns its warnings."""
    loss.backward()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TractWarning)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    return [str(item.message) for item in caught if issubclass(item.category, TractWarning)]


@pytest.mark.parametrize("layers", ["first", ["net.stem"], ["net.stem.weight"]])
def test_names_behind_a_getattr(layers: str | list[str]) -> None:
    backend = tract_backend(inner="aot_eager", layers=layers)
    torch.compile(Outer(), backend=backend)(X).sum().backward()
    assert [(match.layer, match.weight) for match in backend.matches] == [("net.stem", "net.stem.weight")]


def test_a_layer_is_named_by_any_of_its_names() -> None:
    model = Net()
    model.alias = model.stem
    backend = tract_backend(inner="aot_eager", layers=["alias"])
    torch.compile(model, backend=backend)(X).sum().backward()
    assert [match.layer for match in backend.matches] == ["stem"]


def test_no_warning_for_a_part_that_is_compiled_twice() -> None:
    student, backend = Net(), tract_backend(inner="aot_eager")
    evaluation = torch.compile(student, backend=backend)
    training = torch.compile(nn.ModuleDict({"student": student})["student"], backend=backend)
    assert evaluation is not training
    outer = Outer()
    outer.net = student
    assert step(student, torch.compile(outer, backend=backend)(X).sum()) == []


def test_compiled_parts_without_the_first_layer() -> None:
    model = Net()
    model.head.compile(backend=tract_backend(inner="aot_eager"))

    class Part(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model.head = Part(nn.Linear(4, 2))
    model.head.compile(backend=tract_backend(inner="aot_eager"))
    (message,) = step(model, model(X).sum())
    assert "stem.weight of Net trained outside of these graphs" in message
    assert step(model, model(X).sum()) == []


def test_training_through_a_method_that_is_not_compiled() -> None:
    model = Net()
    model.compile(backend=tract_backend(inner="aot_eager"))
    with torch.no_grad():
        model(X)
    (message,) = step(model, model.encode(X).sum())
    assert "through another method" in message
    assert "Dynamo" not in message


def test_a_frozen_weight_and_the_next_layer_are_named() -> None:
    model = Net()
    model.stem.weight.requires_grad_(False)
    with pytest.warns(TractWarning, match=r"stem\.weight is frozen.*layers=\[\"head\"\]"):
        torch.compile(model, backend=tract_backend(inner="aot_eager"))(X)


def test_data_in_an_opaque_operator_beside_a_match() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.w = nn.Linear(6, 4), nn.Parameter(torch.randn(3, 6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) + torch.addbmm(torch.zeros(9, 4), x.expand(3, 9, 6), self.w)

    backend = tract_backend(inner="aot_eager")
    with pytest.warns(TractWarning, match="data meets a weight in addbmm"):
        torch.compile(Both(), backend=backend)(X).sum().backward()
    assert [match.weight for match in backend.matches] == ["stem.weight"]
