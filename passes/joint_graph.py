"""A typed view of a joint graph: what its inputs are, and which nodes are forward or backward."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable, Sequence

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tract_fx import compat
from tract_fx.compat import (
    AOTInput,
    GradAOTOutput,
    PlainAOTInput,
    SubclassGetAttrAOTInput,
    TangentAOTInput,
    ViewBaseAOTInput,
)
from tract_fx.passes.naming import Naming

__all__ = ["GraphInput", "JointGraph", "Role", "is_condition", "is_tensor_node", "operator_of", "target_of"]


DEFAULT_NAMING = Naming()


class Role(enum.Enum):
    """What an input of a compiled graph is to the user. AOTAutograd does not know; the backend determines it."""

    PARAMETER = "parameter"
    """An ``nn.Parameter`` that requires grad, or in functional code what is used like one."""
    STATIC = "static"
    """A frozen parameter, a buffer, or another tensor that a module holds."""
    ACTIVATION = "activation"
    """A tensor that depends on a parameter and was computed outside of this graph, as before a graph break."""
    CONDITION = "condition"
    """At most one number for each sample: a time step, a label, a scale."""
    DATA = "data"
    """Every other tensor, leaves that require grad included (adversarial training, raw audio)."""


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """One input of the graph that Dynamo captured.

    Attributes:
        name: as the user knows it.
        role: what it is to the user.
        differentiated_inside: whether the captured code itself takes a gradient with respect to it.
        parts: dimensions along which processes have parts of it, when it is a DTensor; -1 for parts of a sum.
        jagged: whether it is a jagged tensor (``torch.nested``).
        beside_signal: whether it is a condition, and a signal is fed to another graph of the same model.
    """

    name: str
    role: Role
    differentiated_inside: bool = False
    parts: tuple[int, ...] = ()
    jagged: bool = False
    beside_signal: bool = False


class JointGraph:
    """A joint graph together with what is known about its inputs.

    Args:
        graph: the joint graph; it is not changed.
        inputs: one entry for each input of the graph that Dynamo captured, in its order.
        naming: how layers are called.
    """

    def __init__(self, graph: Graph, inputs: Sequence[GraphInput], naming: Naming = DEFAULT_NAMING) -> None:
        self.graph = graph
        self.inputs = tuple(inputs)
        self.naming = naming

    @functools.cached_property
    def input_of(self) -> dict[Node, GraphInput]:
        """The placeholders that are inputs of the user's code; tangents, sizes, seeds and tokens are not."""
        pairs = ((node, self._resolve(node.meta.get("desc"))) for node in self.graph.find_nodes(op="placeholder"))
        return {node: graph_input for node, graph_input in pairs if graph_input is not None}

    @functools.cached_property
    def first_tangent(self) -> Node | None:
        """A tensor that is there when the backward pass begins, and not before: the gradient of an output."""
        for node in self.graph.find_nodes(op="placeholder"):
            if _is_tangent(node.meta.get("desc")) and isinstance(node.meta.get("val"), torch.Tensor):
                return node
        return None

    @functools.cached_property
    def has_signal_elsewhere(self) -> bool:
        """Whether an activation enters, or a signal is fed to another graph of the model: conditions are no signals then."""
        return any(item.role is Role.ACTIVATION or item.beside_signal for item in self.inputs)

    @functools.cached_property
    def has_gradients(self) -> bool:
        """Whether the graph computes gradients: False for inference and under ``no_grad``."""
        descriptors = self.graph.output_node().meta.get("desc") or ()
        return any(isinstance(desc, GradAOTOutput) for desc in descriptors) or any(map(is_backward, self.graph.nodes))

    @functools.cached_property
    def parameters(self) -> dict[str, tuple[Node, ...]]:
        """Placeholders of each parameter: several where it is a tensor subclass made of several tensors."""
        found: dict[str, tuple[Node, ...]] = {}
        for node, graph_input in self.input_of.items():
            # A DTensor also has its mesh in the graph.
            if graph_input.role is Role.PARAMETER and isinstance(node.meta.get("val"), torch.Tensor):
                found[graph_input.name] = (*found.get(graph_input.name, ()), node)
        return found

    def gradients_of(self, names: Iterable[str]) -> tuple[Node, ...]:
        """Outputs of the graph that are gradients of the named parameters."""
        wanted = set(names)
        output = self.graph.output_node()
        pairs = zip(output.args[0], output.meta.get("desc") or (), strict=False)
        return tuple(
            node
            for node, desc in pairs
            if isinstance(node, Node)
            and isinstance(desc, GradAOTOutput)
            and (graph_input := self._resolve(desc.grad_of)) is not None
            and graph_input.name in wanted
        )

    @functools.cached_property
    def differentiated_inside(self) -> frozenset[str]:
        """Names of the parameters whose gradient the user's code takes inside the graph."""
        return frozenset(item.name for item in self.inputs if item.differentiated_inside)

    @functools.cached_property
    def forward_nodes(self) -> tuple[Node, ...]:
        """Nodes that compute something in the forward direction, in order."""
        return tuple(node for node in self.graph.nodes if node.op == "call_function" and not is_backward(node))

    @functools.cached_property
    def backward_by_sequence(self) -> dict[int, tuple[Node, ...]]:
        """Backward nodes by the sequence number of the forward operation that they differentiate."""
        found: dict[int, list[Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_function" and is_backward(node) and (number := node.meta.get("seq_nr")) is not None:
                found.setdefault(number, []).append(node)
        return {number: tuple(nodes) for number, nodes in found.items()}

    @functools.cached_property
    def differentiated(self) -> dict[int, Node]:
        """The forward node to which each of autograd's sequence numbers belongs.

        Only what is differentiated takes a new number; operations that are not - on data, on detached weights - carry on
        with the number of the last one that was. So a number belongs to the first node that has it.
        """
        found: dict[int, Node] = {}
        for node in self.forward_nodes:
            if (number := node.meta.get("seq_nr")) is not None:
                found.setdefault(number, node)
        return found

    def _resolve(self, desc: AOTInput | None) -> GraphInput | None:
        match desc:
            case PlainAOTInput(idx=index):
                return self.inputs[index] if index < len(self.inputs) else None
            case ViewBaseAOTInput(base_of=base) | SubclassGetAttrAOTInput(base=base):
                return self._resolve(base)
            case _:
                return None


def _is_tangent(desc: AOTInput | None) -> bool:
    while isinstance(desc, SubclassGetAttrAOTInput):
        desc = desc.base
    return isinstance(desc, TangentAOTInput)


def is_backward(node: Node) -> bool:
    """Whether AOTAutograd traced the node while it ran the backward pass."""
    return node.meta.get("partitioner_tag") in ("is_backward", "must_be_in_backward")


def is_tensor_node(node: Node) -> bool:
    """Whether the value of a node is a tensor or holds tensors; sizes carry no dependence."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(item, torch.Tensor) for item in values)


def is_condition(value: torch.Tensor) -> bool:
    """Whether a tensor has at most one number for each sample: all its dimensions but the first have size 1."""
    return all(statically_known_true(size == 1) for size in value.shape[1:])


def operator_of(node: Node) -> str:
    """Name of the operator that the user's code called, before decompositions, such as ``addmm``.

    A name and no object, since the operator that a decomposed node remembers may be a copy.
    """
    return _name(node.meta.get("original_aten") or node.target)


def target_of(node: Node) -> str:
    """Name of the operator that the node calls."""
    return _name(node.target)


def _name(target: object) -> str:
    if not isinstance(target, compat.OpOverload):
        return getattr(target, "__name__", str(target))
    name = target.overloadpacket.__name__
    return name if target.namespace == "aten" else f"{target.namespace}.{name}"
