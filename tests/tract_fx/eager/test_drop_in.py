"""``from tract_fx import TrAct`` instead of ``from torch_tract import TrAct``: the same script, the same training."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_tract
from torch import nn

import tract_fx
from support.oracle import error, squared
from support.works import works

# What the authors' module gets right: it drops dilation, groups and padding_mode, and its dual form loses digits.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (32, 6)),
    "linear, no bias": (lambda: nn.Linear(6, 5, bias=False), (32, 6)),
    "linear, 3d": (lambda: nn.Linear(6, 5), (4, 9, 6)),
    "linear, few rows": (lambda: nn.Linear(12, 5), (7, 12)),
    "conv": (lambda: nn.Conv2d(3, 5, (3, 5), stride=(2, 1), padding=(1, 2)), (4, 3, 9, 8)),
    "conv, no bias": (lambda: nn.Conv2d(3, 5, 3, bias=False), (4, 3, 9, 8)),
    "conv, few rows": (lambda: nn.Conv2d(3, 5, 4, stride=4), (2, 3, 8, 8)),
}


def script(TrAct: Any, make: Callable[[], nn.Module], shape: tuple[int, ...], **arguments: float) -> nn.Module:
    """Three steps in float64, in the words of the authors' README."""
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.Tanh()).double()
    batches = torch.randn(3, *shape, dtype=torch.float64)  # before theirs draws weights that it does not use
    model[0] = TrAct(model[0], **arguments)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for x in batches:
        optimizer.zero_grad()
        squared(model(x)).backward()
        optimizer.step()
    return model


@works("eager")
@pytest.mark.parametrize("arguments", [{}, {"l": 0.5}], ids=["default", "l"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_training(name: str, arguments: dict[str, float]) -> None:
    make, shape = LAYERS[name]
    found, expected = (script(item, make, shape, **arguments) for item in (tract_fx.TrAct, torch_tract.TrAct))
    assert list(found.state_dict()) == list(expected.state_dict())
    for key, value in expected.state_dict().items():
        assert error(found.state_dict()[key], value) <= 1e-9
    expected.load_state_dict(found.state_dict())
    assert type(found[0]).__name__ == type(expected[0]).__name__
    assert found[0].lambda_ == expected[0].lambda_
    assert isinstance(found[0], type(expected[0]).__base__)


@works("eager")
def test_the_signature_begins_with_theirs() -> None:
    ours, theirs = (list(inspect.signature(item).parameters.values()) for item in (tract_fx.TrAct, torch_tract.TrAct))
    assert [item.name for item in theirs] == ["self", "l"]
    assert [item.name for item in ours[:2]] == ["module", "l"]
    assert [item.kind for item in ours[:2]] == [item.kind for item in theirs]
    assert tract_fx.TrAct(nn.Linear(6, 5)).lam == theirs[1].default
    assert all(item.kind is inspect.Parameter.KEYWORD_ONLY for item in ours[2:])


@works("eager")
@pytest.mark.parametrize("TrAct", [tract_fx.TrAct, torch_tract.TrAct])
def test_parameters_are_shared_with_the_layer(TrAct: Any) -> None:
    """So an optimiser that was made before goes on with them."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model[0].weight)
    model[0] = TrAct(model[0])
    squared(model(torch.randn(4, 3, 9, 8))).backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
