"""The typed view of a joint graph."""

import torch
from torch import nn

from support.graphs import joint_graph
from tract_fx.passes.joint_graph import Role, is_backward, operator_of


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 42, 2))


def test_inputs_directions_and_operators() -> None:
    joint = joint_graph(network(), torch.randn(4, 3, 9, 8))
    roles = {item.name: item.role for item in joint.input_of.values()}
    assert roles["0.weight"] is Role.PARAMETER
    assert roles["1.running_mean"] is Role.STATIC
    assert [name for name, role in roles.items() if role is Role.DATA] == ["args[0]"]
    assert joint.has_gradients
    forward = [operator_of(node) for node in joint.forward_nodes]
    assert forward.count("convolution") == 1
    assert forward.count("convolution_backward") == 0
    backwards = [node for nodes in joint.backward_by_sequence.values() for node in nodes]
    assert all(map(is_backward, backwards))
    (convolution,) = (node for node in joint.forward_nodes if operator_of(node) == "convolution")
    of_convolution = joint.backward_by_sequence[convolution.meta["seq_nr"]]
    assert "convolution_backward" in map(operator_of, of_convolution)
