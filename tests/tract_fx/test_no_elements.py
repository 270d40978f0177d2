"""Empty batches and layers without elements do what the plain layer does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tract_fx import TrAct, explain, tract_backend

LAYERS = pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 2), (0, 4)),
        (nn.Conv2d(4, 4, 3, groups=2), (0, 4, 8, 8)),
        (nn.Linear(0, 3), (5, 0)),
        (nn.Linear(3, 0), (5, 3)),
        (nn.Conv2d(0, 4, 3), (2, 0, 8, 8)),
    ],
    ids=str,
)
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


@LAYERS
def test_gradients_are_those_of_the_plain_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    def gradients(call: nn.Module, owner: nn.Module) -> list[Tensor]:
        call(torch.randn(shape)).sum().backward()
        return [parameter.grad for parameter in owner.parameters()]

    plain, compiled, wrapped = (copy.deepcopy(layer) for _ in range(3))
    expected = gradients(plain, plain)
    wrapped = TrAct(wrapped)
    backend = tract_backend(inner="aot_eager")
    for found in (gradients(torch.compile(compiled, backend=backend), compiled), gradients(wrapped, wrapped)):
        assert all(map(torch.equal, found, expected))


@LAYERS
def test_explain_has_the_layer_and_its_costs(layer: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    found = explain(layer, torch.randn(shape))
    assert "rewritten" in str(found)
    (cost,) = found.graphs[0].costs
    assert min(cost.total.flops, cost.total.memory, cost.of_layer) >= 0
    found.to_html(tmp_path / "page.html")
