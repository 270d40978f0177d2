"""Roles and names of the inputs of a captured graph."""

from typing import Any

import torch
from torch import nn

from tract_fx.compile.inputs import classify
from tract_fx.compile.model_frame import current_frame
from tract_fx.passes.joint_graph import GraphInput, Role


class Everything(nn.Module):
    """One input of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.fc.bias.requires_grad_(False)
        self.register_buffer("mean", torch.ones(3))
        self.plain = torch.ones(3)
        self.scales = nn.ParameterList([torch.ones(3)])

    def forward(self, x: torch.Tensor, options: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.fc(x - self.mean) * self.plain * self.scales[0] + options["shift"]


def classified(model: Any, *inputs: Any) -> list[tuple[GraphInput, ...]]:
    seen: list[tuple[GraphInput, ...]] = []

    def backend(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        seen.append(classify(gm, example_inputs, current_frame(gm).naming))
        return gm

    torch.compile(model, backend=backend)(*inputs)
    return seen


def test_every_kind_of_input() -> None:
    (found,) = classified(Everything(), torch.randn(2, 3), {"shift": torch.randn(3)})
    assert {item.name: item.role for item in found} == {
        "fc.weight": Role.PARAMETER,
        "fc.bias": Role.STATIC,
        "mean": Role.STATIC,
        "plain": Role.STATIC,
        "scales.0": Role.PARAMETER,
        "x": Role.DATA,
        "options['shift']": Role.CONDITION,
    }


def test_a_leaf_that_requires_grad_is_data_and_what_is_made_of_parameters_an_activation() -> None:
    model = nn.Linear(3, 3)

    def step(x: torch.Tensor) -> torch.Tensor:
        hidden = model(x)
        torch._dynamo.graph_break()
        return hidden.tanh() + x

    before, after = classified(step, torch.randn(2, 3, requires_grad=True))
    assert {item.name: item.role for item in before} == {
        "weight": Role.PARAMETER,
        "bias": Role.PARAMETER,
        "x": Role.DATA,
    }
    assert {item.name: item.role for item in after} == {"hidden": Role.ACTIVATION, "x": Role.DATA}


def test_a_function_of_several_models_keeps_their_variables() -> None:
    stem, head = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)

    def step(x: torch.Tensor) -> torch.Tensor:
        return head(stem(x).tanh())

    (found,) = classified(step, torch.randn(2, 3))
    assert {item.name for item in found} == {"stem.weight", "stem.bias", "head.weight", "x"}
