"""What values are made of, and where data first meets a parameter."""

import torch
from torch import nn

from support.graphs import joint_graph, joint_graphs
from tract_fx.passes.dependence import Dependence, dependences, first_parameter_use
from tract_fx.passes.joint_graph import operator_of

DATA, PARAMETER = Dependence(data=True), Dependence(trainable=True, parameters=frozenset("w"))
ACTIVATION = Dependence(activation=True)


def test_names_of_parameters_are_kept_as_long_as_nothing_else_is_mixed_in() -> None:
    other = Dependence(trainable=True, parameters=frozenset("v"))
    assert (PARAMETER | other).parameters == {"v", "w"}
    assert (PARAMETER | other).is_weight
    for mixed in (PARAMETER | DATA, PARAMETER | ACTIVATION):
        assert mixed.parameters == frozenset()
        assert not mixed.is_weight
        assert not mixed.is_parameter_free
    assert (DATA | Dependence()).is_parameter_free
    assert not ACTIVATION.is_parameter_free


def test_sizes_carry_no_dependence() -> None:
    """A weight that is viewed by the size of the data is still a weight."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.bmm(x, self.w.expand(x.shape[0], 6, 4))

    joint = joint_graph(Sized(), torch.randn(3, 5, 6), dynamic=True)
    found = dependences(joint)
    (expanded,) = (node for node in joint.forward_nodes if operator_of(node) == "expand")
    assert found[expanded].is_weight


def test_where_data_first_meets_a_parameter() -> None:
    model = nn.Sequential(nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    joint = joint_graph(model, torch.randn(5, 6))
    meeting = first_parameter_use(joint, dependences(joint))
    assert meeting.parameters == ("1.weight",)


def test_labels_that_meet_an_activation_are_no_meeting() -> None:
    stem, head = nn.Linear(6, 4), nn.Linear(4, 3)

    def step(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = stem(x)
        torch._dynamo.graph_break()
        return nn.functional.cross_entropy(head(hidden), labels)

    _, second = joint_graphs(step, torch.randn(5, 6), torch.randint(0, 3, (5,)))
    assert first_parameter_use(second, dependences(second)) is None
