"""Promise 6: ``lam`` changes between steps without a compile, on every graph, also with dynamic shapes."""

import copy

import pytest
import torch
from torch import nn

from support.marks import INNERS
from support.oracle import error, squared, tract_gradients
from support.training import Counter
from support.works import works
from tract_fx import tract_backend


class TwoStems(nn.Module):
    """Two first layers in two graphs: the second comes after a graph break."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3)
        self.right = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        left = torch.tanh(self.left(x)).mean((2, 3))
        torch._dynamo.graph_break()
        return torch.cat([left, torch.tanh(self.right(y))])


def inputs(batch: int) -> list[torch.Tensor]:
    return [torch.randn(batch, 3, 9, 8), torch.randn(batch, 6)]


@works("lam")
@pytest.mark.parametrize("inner", INNERS)
def test_lam_takes_effect_at_the_next_step_of_every_graph(inner: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, backend = TwoStems(), tract_backend(0.1, inner=inner)
    counter = Counter(backend)
    compiled = torch.compile(copy.deepcopy(model), backend=counter)
    for step, (batch, lam) in enumerate([(5, 0.1), (7, 0.3), (6, 0.3), (9, 0.01), (4, 2.0)]):
        backend.lam = lam
        compiled.zero_grad()
        x = inputs(batch)
        squared(compiled(*x)).backward()
        expected = tract_gradients(model, x, ["left", "right"], lam)
        assert error(compiled._orig_mod.left.weight.grad, expected["left"]) <= 1e-5
        assert error(compiled._orig_mod.right.weight.grad, expected["right"]) <= 1e-5
        if step == 1:  # each graph once for the first batch size and once for a dynamic one
            assert counter.graphs == 4
    assert counter.graphs == 4


@works("lam")
def test_lam_may_change_between_forward_and_backward() -> None:
    torch._dynamo.reset()
    model, backend = nn.Linear(6, 4), tract_backend(0.1, inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    x = torch.randn(9, 6)
    loss = squared(compiled(x))
    backend.lam = 1.0
    loss.backward()
    twin = nn.Sequential(model)
    assert error(model.weight.grad, tract_gradients(twin, [x], ["0"], 1.0)["0"]) <= 1e-5


@works("lam")
def test_two_backends_keep_their_own_lam_on_one_model() -> None:
    torch._dynamo.reset()
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(9, 6)
    backends = {lam: tract_backend(lam, inner="aot_eager") for lam in (0.1, 1.0)}
    compiled = {lam: torch.compile(model, backend=backend) for lam, backend in backends.items()}
    for lam in (0.1, 1.0, 0.1):
        model.zero_grad()
        squared(compiled[lam](x)).backward()
        assert error(model[0].weight.grad, tract_gradients(model, [x], ["0"], lam)["0"]) <= 1e-5


def test_setting_lam_is_validated() -> None:
    backend = tract_backend(0.1)
    with pytest.raises(ValueError, match=r"lam=-1.*greater than zero"):
        backend.lam = -1
    assert backend.lam == 0.1
