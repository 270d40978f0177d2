"""What each forward value is made of: data, parameters, activations that came through a graph break."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from torch.fx import Node

from tract_fx.passes.joint_graph import JointGraph, Role, is_condition, is_tensor_node, target_of

__all__ = ["Dependence", "FirstParameterUse", "dependences", "first_parameter_use", "is_random", "operands"]


@dataclasses.dataclass(frozen=True)
class Dependence:
    """What a value depends on.

    ``parameters`` names the parameters as long as the value is made of them alone; once data or an activation is mixed in,
    only the fact remains (``trainable``), since the names in a deep network's whole history are not needed.
    ``from_constant_table`` is the value of a constant table at indices that are data: codes, tokens and positions carry no
    gradient, so that after a graph break nothing else distinguishes those that a network has computed from data.
    ``condition`` is a value with at most one number for each sample, or what was computed from such values alone.
    """

    data: bool = False
    condition: bool = False
    from_constant_table: bool = False
    activation: bool = False
    trainable: bool = False
    parameters: frozenset[str] = frozenset()

    @property
    def is_weight(self) -> bool:
        """Whether the value is made of parameters (and constants) alone."""
        return bool(self.parameters) and not self._is_mixed

    @property
    def is_parameter_free(self) -> bool:
        """Whether nothing trainable is in the value: an image, a normalised image, a constant."""
        return not self.trainable and not self.activation

    @property
    def is_from_data(self) -> bool:
        """Whether data of any kind are in the value: a signal, a condition, or what they select from a constant table."""
        return self.data or self.condition or self.from_constant_table

    @property
    def _is_mixed(self) -> bool:
        return self.is_from_data or self.activation

    def __or__(self, other: Dependence) -> Dependence:
        mixed = self._is_mixed or other._is_mixed
        return Dependence(
            data=self.data or other.data,
            condition=self.condition or other.condition,
            from_constant_table=self.from_constant_table or other.from_constant_table,
            activation=self.activation or other.activation,
            trainable=self.trainable or other.trainable,
            parameters=frozenset() if mixed else self.parameters | other.parameters,
        )


NOTHING = Dependence()
FROM_CONSTANT_TABLE = Dependence(from_constant_table=True)
# Operators that take values from their first argument at indices.
_LOOKUPS = ("embedding", "index", "index_select", "gather", "take")
# Operators that draw numbers; those that draw masks or disturb a tensor (dropout, bernoulli) are not among them.
_RANDOM = ("rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm")
_COMPARISONS = ("ge", "gt", "le", "lt")
_OF_ROLE = {
    Role.DATA: Dependence(data=True),
    Role.CONDITION: Dependence(condition=True),
    Role.ACTIVATION: Dependence(activation=True),
    Role.STATIC: NOTHING,
}


@dataclasses.dataclass(frozen=True)
class FirstParameterUse:
    """The first operation that mixes data with a parameter of this graph."""

    node: Node
    parameters: tuple[str, ...]
    from_constant_table: bool = False


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
            found[node] = _of_node(node, found)
    return found


def _of_node(node: Node, found: dict[Node, Dependence]) -> Dependence:
    if _is_lookup(node, found):
        return FROM_CONSTANT_TABLE
    if is_random(node):
        return _OF_ROLE[Role.CONDITION if is_condition(node.meta["val"]) else Role.DATA]
    if target_of(node) in _COMPARISONS and any(map(is_random, node.all_input_nodes)):
        return NOTHING  # a mask, as of dropout
    return _union(operands(node, found))


def is_random(node: Node) -> bool:
    """Whether a node draws numbers, which then count like numbers that are an input of the graph."""
    return node.op == "call_function" and target_of(node) in _RANDOM


def _is_lookup(node: Node, found: dict[Node, Dependence]) -> bool:
    """Whether a node takes values from a constant at indices that are data."""
    if target_of(node) not in _LOOKUPS:
        return False
    table, *indices = node.all_input_nodes
    if table is not node.args[0] or found.get(table, NOTHING) != NOTHING:
        return False
    return any(found[index].is_from_data for index in indices if index in found)


def first_parameter_use(joint: JointGraph, found: dict[Node, Dependence]) -> FirstParameterUse | None:
    """Where data first meets a parameter, or None when it never does before an activation comes in.

    Only what can be the start of a network counts: labels that meet the output of an earlier graph are none, and neither is
    a condition (a time step, or what a table has for it) in a graph that an activation enters.
    """
    for node in joint.forward_nodes:
        values = list(operands(node, found))
        if any(value.activation for value in values):
            continue
        starts = [
            value.data or (value.is_from_data and not joint.has_signal_elsewhere)
            for value in values
            if value.is_parameter_free
        ]
        weights = frozenset().union(*(value.parameters for value in values))
        if any(starts) and weights:
            return FirstParameterUse(
                node,
                tuple(sorted(weights)),
                from_constant_table=not any(value.data or value.condition for value in values),
            )
    return None


def operands(node: Node, found: dict[Node, Dependence]) -> Iterator[Dependence]:
    """Dependences of the tensors that a node reads."""
    return (found[operand] for operand in node.all_input_nodes if operand in found)


def _union(values: Iterable[Dependence]) -> Dependence:
    result = NOTHING
    for value in values:
        result = result | value
    return result
