"""Linear layers of one shape are solved by one operator, and nothing else changes."""

import pytest
import torch
from torch import nn

from support.graphs import joint_graph, lam_node
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from tract_fx import reference, tract_backend
from tract_fx.passes.alike import FEWEST_ALIKE, alike
from tract_fx.passes.first_layer import find
from tract_fx.passes.joint_graph import is_backward
from tract_fx.passes.rewrite import apply_alike

LAM = 0.1
TOGETHER = torch.ops.tract_fx.alike_gradients.default


class Forecaster(nn.Module):
    """A linear layer for each channel, as DLinear has them."""

    def __init__(self, channels: int = 5, past: int = 12, future: int = 4, wide: bool = False) -> None:
        super().__init__()
        self.channels = nn.ModuleList(nn.Linear(past, future) for _ in range(channels))
        self.other = nn.Linear(past, 3) if wide else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [layer(x[:, index]) for index, layer in enumerate(self.channels)]
        if self.other is not None:
            found.append(self.other(x[:, 0]))
        return torch.tanh(torch.cat(found, 1))


def operators(model: nn.Module, x: torch.Tensor, **arguments: bool) -> list[object]:
    joint = joint_graph(model, x, **arguments)
    lam = lam_node(joint.graph, LAM)
    for group in alike(find(joint).matches):
        if len(group) > 1:
            apply_alike(group, lam)
    joint.graph.lint()
    assert all(is_backward(node) for node in joint.graph.nodes if node.target is TOGETHER)
    return [node.target for node in joint.graph.nodes]


@pytest.mark.parametrize("rows", [40, 7], ids=["primal", "dual"])
@pytest.mark.parametrize("relative", [False, True])
def test_every_layer_gets_its_closed_form(rows: int, relative: bool) -> None:
    model, x = Forecaster(wide=True), torch.randn(rows, 5, 12) * torch.arange(1.0, 6.0)[:, None]
    backend = tract_backend(LAM, inner="aot_eager", relative=relative)
    found = gradients(model, [x], backend)
    names = [*(f"channels.{index}" for index in range(5)), "other"]
    assert [match.weight for match in backend.matches] == [f"{name}.weight" for name in names]
    plain = gradients(model, [x], "aot_eager")
    expected = tract_gradients(model, [x], names, LAM, relative=relative)
    for name in names:
        assert error(found[f"{name}.weight"], expected[name]) <= 1e-5
        assert torch.equal(found[f"{name}.bias"], plain[f"{name}.bias"])


def test_one_operator_for_all() -> None:
    assert operators(Forecaster(wide=True), torch.randn(40, 5, 12)).count(TOGETHER) == 1
    assert operators(Forecaster(wide=True), torch.randn(40, 5, 12), dynamic=True).count(TOGETHER) == 1


@pytest.mark.parametrize("channels", [FEWEST_ALIKE - 1, FEWEST_ALIKE])
def test_few_layers_are_left_alone(channels: int) -> None:
    matches = find(joint_graph(Forecaster(channels), torch.randn(40, channels, 12))).matches
    assert len(alike(matches)) == (channels if channels < FEWEST_ALIKE else 1)


def test_shapes_are_not_mixed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = Forecaster(4), Forecaster(5, past=24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.small(x[:, :, :12]), self.large(x)], 1)

    model, x = Two(), torch.randn(40, 5, 24)
    groups = alike(find(joint_graph(model, x)).matches)
    assert [len(group) for group in groups] == [4, 5]
    names = [f"{part}.channels.{index}" for part, count in (("small", 4), ("large", 5)) for index in range(count)]
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))
    expected = tract_gradients(model, [x], names, LAM)
    assert max(error(found[f"{name}.weight"], expected[name]) for name in names) <= 1e-5


def test_wide_layers_have_operators_of_their_own() -> None:
    matches = find(joint_graph(Forecaster(past=600), torch.randn(4, 5, 600))).matches
    assert [len(group) for group in alike(matches)] == [1] * 5


class Normalised(nn.Module):
    """Weights that are computed from parameters, so that something is made from their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(4, 12) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, index] @ torch.tanh(weight).T for index, weight in enumerate(self.weights)]
        return torch.tanh(torch.cat(parts, 1))


def test_what_is_made_from_a_gradient_comes_behind_the_operator() -> None:
    model, x = Normalised(), torch.randn(40, 5, 12)
    assert operators(model, x).count(TOGETHER) == 1
    found = gradients(model, [x], tract_backend(LAM, inner="aot_eager"))
    for index in range(5):
        weight = model.weights[index].detach().double()
        layer = nn.Linear(12, 4, bias=False).double()
        layer.weight.data = torch.tanh(weight)
        # The gradient with respect to the effective weight, through the derivative of tanh.
        z = (x[:, index].double() @ torch.tanh(weight).T).requires_grad_()
        rest = [x[:, i].double() @ torch.tanh(w.detach().double()).T for i, w in enumerate(model.weights)]
        rest[index] = z
        squared(torch.tanh(torch.cat(rest, 1))).backward()
        new = reference.primal(x[:, index], z.grad, LAM) * (1 - torch.tanh(weight) ** 2)
        assert error(found[f"weights.{index}"], new) <= 1e-5
