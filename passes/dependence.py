"""What each forward value is made of: data, parameters, activations that came through a graph break."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from torch.fx import Node
from tract_fx.passes.joint_graph import JointGraph, Role, is_tensor_node

__all__ = ["Dependence", "Meeting", "dependences", "first_meeting", "operands"]


@dataclasses.dataclass(frozen=True)
class Dependence:
    """What a value depends on.

    ``parameters`` names the parameters as long as the value is made of them alone; once data or an activation is mixed in,
    only the fact remains (``trainable``), since nobody asks for the names of a deep network's whole history.
    """

    data: bool = False
    activation: bool = False
    trainable: bool = False
    parameters: frozenset[str] = frozenset()

    @property
    def is_weight(self) -> bool:
        """Whether the value is made of parameters (and constants) alone."""
        return bool(self.parameters) and not self.data and not self.activation

    @property
    def is_raw(self) -> bool:
        """Whether nothing trainable is in the value: an image, a normalised image, a constant."""
        return not self.trainable and not self.activation

    def __or__(self, other: Dependence) -> Dependence:
        mixed = self.data or other.data or self.activation or other.activation
        return Dependence(
            data=self.data or other.data,
            activation=self.activation or other.activation,
            trainable=self.trainable or other.trainable,
            parameters=frozenset() if mixed else self.parameters | other.parameters,
        )


NOTHING = Dependence()
_OF_ROLE = {
    Role.DATA: Dependence(data=True),
    Role.ACTIVATION: Dependence(activation=True),
    Role.STATIC: NOTHING,
}


@dataclasses.dataclass(frozen=True)
class Meeting:
    """The first operation that mixes data with a parameter of this graph."""

    node: Node
    parameters: tuple[str, ...]


def dependences(joint: JointGraph) -> dict[Node, Dependence]:
    """Dependence of every input and of every forward node that holds a tensor. Sizes carry none."""
    found: dict[Node, Dependence] = {}
    for node, graph_input in joint.input_of.items():
        if graph_input.role is Role.PARAMETER:
            found[node] = Dependence(trainable=True, parameters=frozenset((graph_input.name,)))
        else:
            found[node] = _OF_ROLE[graph_input.role]
    for node in joint.forward_nodes:
        if is_tensor_node(node):
            found[node] = _union(operands(node, found))
    return found


def first_meeting(joint: JointGraph, found: dict[Node, Dependence]) -> Meeting | None:
    """Where data first meets a parameter, or None when it never does before an activation comes in.

    Only what can be the start of a network counts: labels that meet the output of an earlier graph are none.
    """
    for node in joint.forward_nodes:
        values = list(operands(node, found))
        if any(value.activation for value in values):
            continue
        data = any(value.data and value.is_raw for value in values)
        weights = frozenset().union(*(value.parameters for value in values))
        if data and weights:
            return Meeting(node, tuple(sorted(weights)))
    return None


def operands(node: Node, found: dict[Node, Dependence]) -> Iterator[Dependence]:
    """Dependences of the tensors that a node reads."""
    return (found[operand] for operand in node.all_input_nodes if operand in found)


def _union(values: Iterable[Dependence]) -> Dependence:
    result = NOTHING
    for value in values:
        result = result | value
    return result
