"""What each forward value is made of: data, parameters, activations that came through a graph break."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tract_fx.passes.joint_graph import JointGraph, Role, is_condition, is_tensor_node, target_of

__all__ = [
    "Dependence",
    "FirstParameterUse",
    "dependences",
    "first_parameter_use",
    "is_random",
    "operands",
    "reads_values",
]


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
# Operators that draw numbers, of tensors that they read only the shape; those that draw masks or disturb a tensor (dropout,
# bernoulli, poisson) are not among them. Methods are those of Dynamo's graphs.
_RANDOM = ("rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "prims.normal",
           "normal_functional", "uniform", "exponential", "log_normal", "cauchy", "geometric",
           "normal_", "uniform_", "exponential_", "log_normal_", "cauchy_", "geometric_")  # fmt: skip
# One that draws numbers around those of a tensor, or of a number.
_RANDOM_AROUND = ("normal",)
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
    noise: set[Node] = set()
    for node, graph_input in joint.input_of.items():
        if graph_input.role is Role.PARAMETER:
            found[node] = Dependence(trainable=True, parameters=frozenset((graph_input.name,)))
        else:
            found[node] = _OF_ROLE[graph_input.role]
    for node in joint.forward_nodes:
        if is_tensor_node(node):
            found[node] = _of_node(node, found, noise)
            if _is_noise(node, found, noise):
                noise.add(node)
    return found


def _of_node(node: Node, found: dict[Node, Dependence], noise: set[Node]) -> Dependence:
    if _is_lookup(node, found):
        return FROM_CONSTANT_TABLE
    if is_random(node):
        drawn = _OF_ROLE[Role.CONDITION if is_condition(node.meta["val"]) else Role.DATA]
        return drawn | _union(operands(node, found)) if reads_values(node) else drawn
    if target_of(node) in _COMPARISONS and any(map(is_random, node.all_input_nodes)):
        return NOTHING  # a mask, as of dropout
    if _arranges_noise(node, noise):
        return _OF_ROLE[Role.DATA]
    if _disturbs_weight(node, found, noise):
        return _union(found[operand] for operand in node.all_input_nodes if operand in found and operand not in noise)
    return _union(operands(node, found))


def is_random(node: Node) -> bool:
    """Whether a node draws numbers, which then count like numbers that are an input of the graph."""
    return node.op in ("call_function", "call_method") and target_of(node) in (*_RANDOM, *_RANDOM_AROUND)


def reads_values(node: Node) -> bool:
    """Whether a node that draws numbers draws them around the values of tensors, and does not only take their shape."""
    return target_of(node) in _RANDOM_AROUND


def _is_noise(node: Node, found: dict[Node, Dependence], noise: set[Node]) -> bool:
    """Whether a value is made of random numbers and constants alone."""
    made_of = [operand for operand in node.all_input_nodes if found.get(operand, NOTHING) != NOTHING]
    if is_random(node):
        return not reads_values(node) or noise.issuperset(made_of)
    return found[node] != NOTHING and bool(made_of) and noise.issuperset(made_of)


def _arranges_noise(node: Node, noise: set[Node]) -> bool:
    """Whether random numbers that were drawn in a row, as by a decomposition, become several for each sample."""
    if len(node.all_input_nodes) != 1 or node.all_input_nodes[0] not in noise:
        return False
    before, after = node.all_input_nodes[0].meta["val"], node.meta["val"]
    if not (isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)):
        return False
    several = is_condition(before) and not is_condition(after)
    return several and statically_known_true(before.numel() == after.numel())


def _disturbs_weight(node: Node, found: dict[Node, Dependence], noise: set[Node]) -> bool:
    """Whether random numbers are added to a weight, or multiplied with it, element by element: it stays a weight.

    They do not enlarge it, as numbers that are drawn for each sample do.
    """
    read = [operand for operand in node.all_input_nodes if operand in found]
    if noise.isdisjoint(read) or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return False
    others = [operand for operand in read if operand not in noise and found[operand] != NOTHING]
    return all(found[operand].is_weight for operand in others) and any(_same_shape(node, other) for other in others)


def _same_shape(node: Node, other: Node) -> bool:
    value, shape = node.meta["val"], other.meta["val"].shape
    if not isinstance(value, torch.Tensor) or len(value.shape) != len(shape):
        return False
    # Sizes may be symbols, and to ask whether they are equal would make them so.
    return all(statically_known_true(a == b) for a, b in zip(value.shape, shape, strict=True))


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
        if any(value.activation for value in values) or found.get(node, NOTHING).is_weight:
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
