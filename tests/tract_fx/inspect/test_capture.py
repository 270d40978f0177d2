"""An explanation leaves everything as it was."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import tract_fx
from support.works import works

pytestmark = works("explain")


class Broken(nn.Module):
    """Dynamo compiles two frames of it, whose code all instances share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(x)).relu()
        torch._dynamo.graph_break()
        return self.head(features.mean((2, 3)))


def step(compiled: nn.Module, batch: int = 4) -> torch.Tensor:
    torch.manual_seed(0)
    loss = compiled(torch.randn(batch, 3, 8, 8)).sum()
    loss.backward()
    return loss.detach()


def test_model_and_random_numbers() -> None:
    model = Broken()
    step(model)
    before = copy.deepcopy(model.state_dict())
    gradients = {name: (item.grad, item.grad.clone()) for name, item in model.named_parameters()}
    state = torch.get_rng_state()
    tract_fx.explain(model, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    for name, parameter in model.named_parameters():
        same, value = gradients[name]
        assert parameter.grad is same
        assert torch.equal(parameter.grad, value)


def test_arguments() -> None:
    x = torch.randn(4, 3, 8, 8)

    def doubled(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return module(x.mul_(2))

    model = Broken()
    before = x.clone()
    tract_fx.explain(lambda x: doubled(model, x), x)
    assert torch.equal(x, before)
    assert x.grad is None


@pytest.mark.parametrize("explained", ["same model", "other model"])
def test_what_was_compiled_before(explained: str) -> None:
    model = Broken()
    backend = tract_fx.tract_backend(inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    step(compiled)
    graphs, matches = counters["stats"]["unique_graphs"], backend.matches
    for batch in range(5, 12):  # sizes from which Dynamo would conclude that the batch is dynamic
        tract_fx.explain(model if explained == "same model" else Broken(), torch.randn(batch, 3, 8, 8))
    assert counters["stats"]["unique_graphs"] == graphs
    step(compiled)
    assert counters["stats"]["unique_graphs"] == graphs  # nothing was thrown away
    assert backend.matches == matches
    step(compiled, 6)
    assert counters["stats"]["unique_graphs"] == graphs + 2  # two frames, and the limit of recompiles is far away
    model.zero_grad()
    step(compiled)
    after = model.conv.weight.grad
    model.zero_grad()
    torch._dynamo.reset()
    step(torch.compile(model, backend=tract_fx.tract_backend(inner="aot_eager")))
    assert torch.equal(after, model.conv.weight.grad)


def test_what_is_compiled_afterwards() -> None:
    """No entry and no verdict of Dynamo's stays on code that many models share."""
    tract_fx.explain(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    backend = tract_fx.tract_backend(inner="aot_eager")
    torch.compile(nn.Sequential(nn.Linear(3, 2)), backend=backend)(torch.randn(7, 3)).sum().backward()
    assert [match.weight for match in backend.matches] == ["0.weight"]


def test_sizes_that_were_explained_make_nothing_dynamic() -> None:
    model = Broken()
    for batch in (5, 6, 7):
        tract_fx.explain(model, torch.randn(batch, 3, 8, 8))
    compiled = torch.compile(model, backend=tract_fx.tract_backend(inner="aot_eager"))
    step(compiled, 8)
    graphs = counters["stats"]["unique_graphs"]
    step(compiled, 9)
    assert counters["stats"]["unique_graphs"] == graphs + 2  # the first size was compiled for itself


def test_many_explanations_do_not_use_up_the_recompile_limit() -> None:
    model = Broken()
    compiled = torch.compile(model, backend=tract_fx.tract_backend(inner="aot_eager"), dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=3):
        step(compiled)
        for _ in range(4):
            tract_fx.explain(model, torch.randn(4, 3, 8, 8))
        graphs = counters["stats"]["unique_graphs"]
        step(compiled, 5)
        assert counters["stats"]["unique_graphs"] == graphs + 2


def test_nobody_waits_for_a_model_that_was_only_explained() -> None:
    model = Broken()
    tract_fx.explain(model, torch.randn(4, 3, 8, 8))
    step(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", tract_fx.TractWarning)
        torch.optim.SGD(model.parameters(), lr=0.1).step()
