"""The gradient of each call's weight is found, or it is said why not; never a wrong one."""

import operator

import pytest
import torch
from torch import nn

from support.graphs import joint_graph
from tract_fx.passes.calls import Call, calls
from tract_fx.passes.dependence import dependences
from tract_fx.passes.first_layer import find
from tract_fx.passes.joint_graph import JointGraph, target_of
from tract_fx.passes.weight_gradient import AmbiguousGradientError, weight_gradient
from tract_fx.records import RejectionKind

aten = torch.ops.aten


def with_call(model: nn.Module, *inputs: torch.Tensor) -> tuple[JointGraph, Call]:
    """The joint graph of a model, and its first call."""
    joint = joint_graph(model, *inputs)
    depends = dependences(joint)
    return joint, next(calls(joint, lambda node: node in depends and depends[node].is_weight))


def conv() -> tuple[JointGraph, Call]:
    return with_call(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), torch.randn(2, 3, 9, 8))


def linear() -> tuple[JointGraph, Call]:
    return with_call(nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(9, 6))


def node_of(joint: JointGraph, target: str) -> torch.fx.Node:
    return next(node for node in joint.graph.nodes if target_of(node) == target)


def test_of_a_convolution() -> None:
    joint, call = conv()
    found = weight_gradient(joint, call)
    backward = node_of(joint, "convolution_backward")
    assert (found.node.target, found.node.args) == (operator.getitem, (backward, 1))
    assert found.output_gradient is backward.args[0]


def test_of_a_product() -> None:
    joint, call = linear()
    found = weight_gradient(joint, call)
    assert found.node.meta["val"].shape == call.weight.meta["val"].shape
    assert found.output_gradient.meta["val"].shape == call.output.meta["val"].shape


def test_of_the_same_convolution_twice_on_one_input() -> None:
    """Which of the two backward nodes belongs to which call, only autograd's numbers tell."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.conv(x)) * self.conv(x)

    joint = joint_graph(Twice(), torch.randn(2, 3, 9, 8))
    first, second = find(joint).matches
    assert first.gradient.node is not second.gradient.node
    for match in (first, second):
        assert match.gradient.node.meta["seq_nr"] == match.call.sequence_number


def test_two_backward_nodes_that_nothing_tells_apart() -> None:
    joint, call = conv()
    backward = node_of(joint, "convolution_backward")
    with joint.graph.inserting_after(backward):
        joint.graph.node_copy(backward).meta = dict(backward.meta)
    with pytest.raises(AmbiguousGradientError, match="several convolution_backward nodes"):
        weight_gradient(joint, call)
    (rejection,) = find(joint).rejections
    assert rejection.kind is RejectionKind.UNSUPPORTED
    assert "its weight gradient is not unique" in rejection.reason


@pytest.mark.parametrize("rows", [9, 1])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_factor_on_a_product(alpha: float, rows: int) -> None:
    """``alpha`` is in the weight gradient and not in the gradient of the output."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight, beta=0.25, alpha=alpha)

    assert weight_gradient(*with_call(Scaled(), torch.randn(rows, 6))).scale == alpha


def test_a_product_without_a_sequence_number() -> None:
    joint, call = linear()
    del call.output.meta["seq_nr"]
    with pytest.raises(AmbiguousGradientError, match="no autograd sequence number"):
        weight_gradient(joint, call)


def test_a_second_value_that_leaves_the_backward_nodes() -> None:
    joint, call = linear()
    inner = next(node for node in joint.backward_by_sequence[call.sequence_number] if target_of(node) == "mm")
    with joint.graph.inserting_after(inner):
        joint.graph.call_function(aten.neg.default, (inner,))
    with pytest.raises(AmbiguousGradientError, match="2 values that depend on its input leave"):
        weight_gradient(joint, call)


def test_a_gradient_of_another_shape() -> None:
    joint, call = linear()
    gradient = weight_gradient(joint, call).node
    gradient.meta["val"] = gradient.meta["val"].new_empty(3, 3)
    with pytest.raises(AmbiguousGradientError, match=r"its weight has shape \(6, 4\), the gradient found \(3, 3\)"):
        weight_gradient(joint, call)


def test_a_second_tensor_that_enters_the_gradient() -> None:
    joint, call = linear()
    product = next(node for node in joint.backward_by_sequence[call.sequence_number] if target_of(node) == "mm")
    with joint.graph.inserting_before(product):
        mixed = joint.graph.call_function(aten.add.Tensor, (product.args[0], foreign(joint, product.args[0])))
    mixed.meta = dict(product.args[0].meta)
    product.replace_input_with(product.args[0], mixed)
    with pytest.raises(AmbiguousGradientError, match="the gradients that enter have"):
        weight_gradient(JointGraph(joint.graph, joint.inputs), call)


def foreign(joint: JointGraph, node: torch.fx.Node) -> torch.fx.Node:
    """A tensor of the same shape that comes from elsewhere."""
    with joint.graph.inserting_after(node):
        other = joint.graph.call_function(aten.ones_like.default, (node,))
    other.meta = {"val": node.meta["val"], "partitioner_tag": "is_backward", "seq_nr": -1}
    return other
