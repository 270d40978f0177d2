"""The authors' module, ``torch-tract``, on every kind of layer that it gets right."""

import copy

import pytest
import torch
from torch import nn
from torch_tract import TrAct

from support.oracle import error, squared
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

# It drops dilation, groups and padding_mode, and its dual form loses digits: not here.
LAYERS = {
    "linear": (nn.Linear(6, 5), (32, 6)),
    "linear, no bias": (nn.Linear(6, 5, bias=False), (32, 6)),
    "linear, 3d": (nn.Linear(6, 5), (4, 9, 6)),
    "linear, few rows": (nn.Linear(12, 5), (7, 12)),
    "conv": (nn.Conv2d(3, 5, 3), (4, 3, 9, 8)),
    "conv, stride and padding": (nn.Conv2d(3, 5, (3, 5), stride=(2, 1), padding=(1, 2)), (4, 3, 9, 8)),
    "conv, no bias": (nn.Conv2d(3, 5, 3, bias=False), (4, 3, 9, 8)),
    "conv, patches": (nn.Conv2d(3, 5, 4, stride=4), (16, 3, 8, 8)),
    "conv, few rows": (nn.Conv2d(3, 5, 4, stride=4), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("lam", [0.05, 0.2])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_authors_module(name: str, lam: float) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    official = nn.Sequential(TrAct(copy.deepcopy(layer).double(), l=lam), nn.Tanh())
    squared(official(x.double())).backward()
    found = gradients(nn.Sequential(layer, nn.Tanh()), [x], tract_backend(lam, inner="aot_eager"))["0.weight"]
    assert error(found, official[0].weight.grad) <= 1e-5


@works("shared")
def test_a_shared_layer_equals_the_authors_module_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self, stem: nn.Module) -> None:
            super().__init__()
            self.stem = stem

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.stem(x)).sum() * torch.tanh(self.stem(y)).mean()

    layer, inputs = nn.Conv2d(3, 5, 3), [torch.randn(4, 3, 9, 8), torch.randn(2, 3, 7, 7)]
    official = Twice(TrAct(copy.deepcopy(layer).double(), l=0.1))
    squared(official(*(item.double() for item in inputs))).backward()
    found = gradients(Twice(layer), inputs, tract_backend(0.1, inner="aot_eager"))["stem.weight"]
    assert error(found, official.stem.weight.grad) <= 1e-5
