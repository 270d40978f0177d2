"""Sides share a network and disturb each other in nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tract_fx.tools.training.loop import TrainingLoop
from tract_fx.tools.training.sides import CompiledSides, Side, SideRun, alternating

PLAIN, TRACT, STRONG = Side("plain", None), Side("TrAct", 0.1), Side("TrAct, lam 2", 2.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(20, 3, 2, 2, generator=generator), torch.randint(3, (20,), generator=generator)


def descent(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.3, momentum=0.9)


def test_a_side_that_takes_turns_trains_as_one_alone() -> None:
    """Running statistics and momentum too: the plain side against a training without the others, bit by bit."""
    compiled = CompiledSides(network(), "aot_eager")
    weights = copy.deepcopy(compiled.model.state_dict())
    runs = [SideRun(side, compiled, weights, descent, total=9) for side in (PLAIN, TRACT, STRONG)]
    order, ends = [], {}
    for run in alternating(runs, 3):
        run.train_on([batch(10 * run.epochs + step) for step in range(3)])
        order.append((run.side.name, run.epochs))
        ends[run.side.name] = copy.deepcopy(compiled.model.state_dict())
    assert order == [(side.name, epoch) for epoch in (1, 2, 3) for side in (PLAIN, TRACT, STRONG)]
    alone = network()
    loop = TrainingLoop(alone, [descent(alone.parameters())], total=9)
    loop.forward = torch.compile(alone, backend="aot_eager", dynamic=False)
    for epoch in range(3):
        loop.train_on([batch(10 * epoch + step) for step in range(3)])
    for name, value in alone.state_dict().items():
        assert torch.equal(value, ends["plain"][name]), name


@pytest.mark.parametrize("order", [(PLAIN, TRACT, STRONG), (STRONG, TRACT, PLAIN)])
def test_each_side_has_the_gradient_of_its_lam(order: tuple[Side, ...]) -> None:
    """One step against the closed form in float64; other parameters move alike on all sides."""
    compiled = CompiledSides(network(), "aot_eager")
    weights = copy.deepcopy(compiled.model.state_dict())
    moved = {}
    for run in alternating([SideRun(side, compiled, weights, descent, total=1) for side in order], 1):
        run.train_on([batch(0)])
        moved[run.side.name] = {name: value - weights[name] for name, value in compiled.model.state_dict().items()}
    x = batch(0)[0].flatten(1).double()
    covariance = x.T @ x / len(x)
    plain = moved["plain"]["1.weight"].double()
    for side in (TRACT, STRONG):
        expected = plain @ torch.linalg.inv(covariance + side.lam * torch.eye(12).double())
        torch.testing.assert_close(moved[side.name]["1.weight"].double(), expected, rtol=1e-4, atol=1e-6)
        for name in ("1.bias", "4.weight"):
            assert torch.equal(moved[side.name][name], moved["plain"][name])
    assert [match["weight"] for match in compiled.matches] == ["1.weight"]


def test_a_failed_epoch_leaves_the_weights_as_they_were() -> None:
    compiled = CompiledSides(network(), "aot_eager")
    run = SideRun(PLAIN, compiled, copy.deepcopy(compiled.model.state_dict()), descent, total=2)

    def fail() -> None:
        with run.in_place():
            compiled.model[1].weight.data.fill_(7)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with run.in_place():
        assert not (compiled.model[1].weight == 7).any()
