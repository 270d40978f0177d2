"""Where the gradient of a call's weight is computed, and from which gradient of its output."""

from __future__ import annotations

import dataclasses
import operator

import torch
from torch.fx import Node

from tract_fx.passes.calls import Call, Kind
from tract_fx.passes.joint_graph import JointGraph, is_backward, target_of

__all__ = ["AmbiguousGradientError", "WeightGradient", "weight_gradient"]


class AmbiguousGradientError(Exception):
    """The backward pass of a call does not have the form that autograd gives it."""


@dataclasses.dataclass(frozen=True)
class WeightGradient:
    """Nodes of the backward pass that belong to one call.

    ``node`` holds the gradient of the weight operand, in that operand's shape and dtype; ``output_gradient`` the gradient
    of the call's output; ``scale`` the number by which the call multiplies its product (``addmm(..., alpha=0.5)``).
    """

    node: Node
    output_gradient: Node
    scale: float = 1.0


def weight_gradient(joint: JointGraph, call: Call) -> WeightGradient | None:
    """The gradient of the weight operand of ``call``, or None when the graph does not compute it.

    Raises:
        AmbiguousGradientError: when there are backward nodes for the call but no single gradient among them.
    """
    if call.kind is Kind.CONVOLUTION:
        return _of_convolution(joint, call)
    return _of_product(joint, call)


def _of_convolution(joint: JointGraph, call: Call) -> WeightGradient | None:
    """Output 1 of the ``convolution_backward`` that has the same input and the same weight.

    One that AOTAutograd has not traced as part of the backward pass is in a hand-written ``torch.autograd.Function``, which
    may do anything with the gradient afterwards.
    """
    backwards = [
        user
        for user in call.input.users
        if user.target is torch.ops.aten.convolution_backward.default
        and user.args[1:3] == (call.input, call.weight)
        and is_backward(user)
    ]
    twins = [user for user in call.input.users if user.args[:2] == (call.input, call.weight) and not is_backward(user)]
    # The same weight on the same input twice: only autograd's sequence number distinguishes them. A call that is not
    # differentiated has the number of another operation.
    if max(len(backwards), len(twins)) > 1:
        number = call.sequence_number
        is_differentiated = number is not None and joint.differentiated.get(number) in call.nodes
        backwards = [node for node in backwards if is_differentiated and node.meta.get("seq_nr") == number]
    if not backwards:
        return None
    if len(backwards) > 1:
        raise AmbiguousGradientError("several convolution_backward nodes have its input, weight and sequence number")
    for user in backwards[0].users:
        if user.target is operator.getitem and user.args[1] == 1 and user.users:
            return WeightGradient(user, backwards[0].args[0])
    return None


def _of_product(joint: JointGraph, call: Call) -> WeightGradient | None:
    """The one value that leaves the backward nodes of the product and was computed from its input.

    Which nodes those are depends on layouts, casts and decompositions; that they carry the sequence number of the forward
    product, and that of all values leaving them only the weight's gradient is made from the input, does not.
    """
    if call.sequence_number is None:
        raise AmbiguousGradientError("it has no autograd sequence number")
    if joint.differentiated[call.sequence_number] not in call.nodes:
        return None
    nodes = joint.backward_by_sequence.get(call.sequence_number, ())
    from_input = _reached_from(call.input, nodes)
    inside = set(nodes)
    exits = [node for node in nodes if node in from_input and any(user not in inside for user in node.users)]
    if not exits:
        return None
    if len(exits) > 1:
        raise AmbiguousGradientError(f"{len(exits)} values that depend on its input leave its backward pass")
    gradient = exits[0]
    expected, found = call.weight.meta["val"].shape, gradient.meta["val"].shape
    if tuple(expected) != tuple(found):
        raise AmbiguousGradientError(f"its weight has shape {tuple(expected)}, the gradient found {tuple(found)}")
    output_gradient, between = _output_gradient(call, gradient, inside)
    return WeightGradient(gradient, output_gradient, _scale(between))


def _reached_from(start: Node, nodes: tuple[Node, ...]) -> set[Node]:
    reached = {start}
    for node in nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached


def _output_gradient(call: Call, gradient: Node, inside: set[Node]) -> tuple[Node, set[Node]]:
    """The one tensor, other than the input, from which the backward nodes make ``gradient``; and the nodes that do it."""
    sources: dict[Node, None] = {}
    pending, seen = [gradient], set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in inside:
            pending.extend(node.all_input_nodes)
        elif node is not call.input and isinstance(node.meta.get("val"), torch.Tensor):
            sources[node] = None
    found = list(sources)
    expected = tuple(call.output.meta["val"].shape)
    if len(found) != 1 or tuple(found[0].meta["val"].shape) != expected:
        shapes = [tuple(node.meta["val"].shape) for node in found]
        raise AmbiguousGradientError(f"its output has shape {expected}, the gradients that enter have {shapes}")
    return found[0], seen & inside


def _scale(nodes: set[Node]) -> float:
    """Product of the numbers that the nodes multiply with."""
    scale = 1.0
    for node in nodes:
        if target_of(node) == "mul":
            for factor in node.args:
                if isinstance(factor, (int, float)):
                    scale *= factor
                elif not isinstance(factor.meta.get("val"), torch.Tensor):
                    raise AmbiguousGradientError("it is multiplied with a number that is known at run time only")
    return scale
