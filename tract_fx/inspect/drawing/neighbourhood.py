"""Which nodes of a joint graph are worth drawing around a rewrite, and which of them become one box.

The picture shows the layer's call with what its operands are made from, its backward pass, the nodes from its weight
gradient to that of the parameter, and the nodes that the pass has added. Among the added nodes, the operators of
``_LANDMARKS`` (Gram matrix, solution, choice, or one operator for all of it) have boxes of their own.
All other added nodes with the same landmarks before them and the same landmarks after them share one box. Edges are tensors;
sizes are not drawn.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch.fx import Graph, Node

from tract_fx.inspect.drawing.captions import CAPTIONS, counted, meaning_of, title_of, value_of
from tract_fx.inspect.nodes import LayerNodes
from tract_fx.inspect.walks import ancestors, connected, in_order, reached
from tract_fx.passes.joint_graph import is_backward, is_tensor_node, target_of

__all__ = ["Box", "Neighbourhood", "neighbourhood"]

Status = Literal["same", "added", "removed", "unused"]
Kind = Literal["node", "chain", "input", "result", "rest"]

# The operator of many small layers.
_ALIKE = "tract_fx.alike_gradients"
# Operators with a box of their own among added nodes, by what they are called here.
_LANDMARKS = {
    "tract_fx.patch_gram": "gram",
    "tract_fx.gram_and_gradient": "gram",
    "tract_fx.weight_gradient": "gradient",
    "tract_fx.primal_gradient": "whole",
    "tract_fx.dual_gradient": "whole",
    "tract_fx.factor_and_solve": "solve",
    _ALIKE: "whole",
    "where": "choose",
    "bmm": "product",
    "mm": "product",
}
# Sources drawn one by one; more are counted.
_MOST_SOURCES = 2

Key = tuple[Any, ...]
_BIAS: Key = ("bias",)


@dataclasses.dataclass(frozen=True)
class Box:
    """One box of the picture.

    Attributes:
        title: operator, or name of an input.
        caption: what it means here.
        value: shape and dtype of what comes out.
        nodes: names of the nodes in it.
        status: what became of them.
        backward: whether they belong to the backward pass.
        kind: ``"node"``, ``"chain"`` of several, ``"input"``, ``"result"`` or ``"rest"`` of the graph.
    """

    title: str
    caption: str = ""
    value: str = ""
    nodes: tuple[str, ...] = ()
    status: Status = "same"
    backward: bool = False
    kind: Kind = "node"


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """Boxes by a name, in an order in which edges lead forward."""

    boxes: dict[str, Box]
    edges: tuple[tuple[str, str], ...]


def neighbourhood(
    graph: Graph,
    layer: LayerNodes,
    weight: str,
    form: str,
    known: Collection[str],
    *,
    after: bool,
    names: Mapping[str, str] = MappingProxyType({}),
) -> Neighbourhood:
    """What to draw of one side.

    Args:
        graph: before or after the pass.
        layer: the nodes of the layer.
        weight: name of the parameter.
        form: ``"primal"`` or ``"dual"``.
        known: names of the nodes of the graph on the other side.
        after: which of both this is.
        names: of inputs as the user knows them, by that in the graph.
    """
    return _Drawing(graph, layer, weight, form, known, after, names).result()


class _Drawing:
    def __init__(
        self,
        graph: Graph,
        layer: LayerNodes,
        weight: str,
        form: str,
        known: Collection[str],
        after: bool,
        names: Mapping[str, str],
    ) -> None:
        self.graph, self.weight, self.form, self.known, self.after = graph, weight, form, known, after
        self.names = names
        self.nodes = {node.name: node for node in graph.nodes}
        self.input, self.operand, self.call = (self.nodes[name] for name in (layer.input, layer.weight, layer.output))
        self.gradient, self.tangent = self.nodes.get(layer.gradient), self.nodes[layer.output_gradient]
        self.output = graph.output_node()
        self.group_of: dict[Node, Key] = {}
        self.of_others: set[Node] = set()  # results that an operator of many layers has for the others

    def result(self) -> Neighbourhood:
        self._operand(self.input, "data")
        self._operand(self.operand, "weight")
        self._between((self.input, self.operand), self.call, ("call",))
        self._assign([self.tangent], ("tangent",))
        if self.gradient is not None:
            self._between((self.tangent, self.input), self.gradient, ("backward",))
        if self.after:
            self._added()
        self._tail()
        return self._quotient()

    def _name(self, node: Node) -> str:
        return self.names.get(node.name, node.name)

    def _assign(self, nodes: Iterable[Node], key: Key) -> None:
        for node in nodes:
            self.group_of.setdefault(node, key)
            for user in node.users:
                if user.target is operator.getitem:
                    self.group_of.setdefault(user, key)

    def _operand(self, node: Node, role: str) -> None:
        """What an operand is made from: inputs of the graph one by one, if they are few, and everything between."""
        found = ancestors([node], lambda item: not is_backward(item))
        made = [item for item in self.graph.nodes if item in found]
        sources = [item for item in made if item.op == "placeholder" and is_tensor_node(item)]
        inner = [item for item in made if item.op != "placeholder"]
        if len(sources) <= _MOST_SOURCES:
            for source in sources:
                self._assign([source], (role, source.name))
        self._assign(inner, (role, "made"))

    def _between(self, starts: tuple[Node, ...], end: Node, key: Key) -> None:
        """Nodes on the ways from some nodes to another one."""
        stop = set(starts)
        before = ancestors([end], lambda item: item not in stop)
        reached: set[Node] = set(stop)
        for node in self.graph.nodes:
            if node in before and node not in stop and not reached.isdisjoint(node.all_input_nodes):
                reached.add(node)
                self._assign([node], key)

    def _added(self) -> None:
        """Nodes that the pass has added for this layer, by the landmarks before and behind them."""
        mine = self._rewrite()
        order = [node for node in self.graph.nodes if node in mine]
        landmark: dict[Node, Key] = {}
        before: dict[Node, frozenset[Key]] = {}
        for node in order:
            inputs = [item for item in node.all_input_nodes if item in mine]
            seen = frozenset[Key]().union(*(before[item] | _one(landmark, item) for item in inputs))
            before[node] = seen
            if (name := _LANDMARKS.get(target_of(node))) is not None:
                if name == "gradient" and self.form == "dual":  # which has the last product computed by its kernel
                    name = "product"
                landmark[node] = (name, sum(key[0] == name for key in seen))
        behind: dict[Node, frozenset[Key]] = {}
        for node in reversed(order):
            users = [item for item in node.users if item in mine]
            behind[node] = frozenset[Key]().union(*(behind[item] | _one(landmark, item) for item in users))
        for node in order:
            self._assign([node], landmark.get(node) or ("added", before[node], behind[node]))
        self._constants_to_users(order)
        for node in self.tangent.users:  # what had been computed with the plain gradient of a convolution
            if node.name not in self.known and node not in mine and target_of(node) == "sum":
                self._assign([node], _BIAS)

    def _rewrite(self) -> set[Node]:
        """The added nodes of this layer, which hang together and start from its input and the gradient of its output."""
        new = {node for node in self.graph.nodes if node.name not in self.known}
        while new:
            part = connected(next(iter(new)), new)
            new -= part
            if {self.input, self.tangent} <= {item for node in part for item in node.all_input_nodes}:
                return self._without_others(part)
        return set()

    def _without_others(self, part: set[Node]) -> set[Node]:
        """Of the added nodes of layers that are solved together, those of this one and the operator."""
        operator_ = next((node for node in part if target_of(node) == _ALIKE), None)
        if operator_ is None:
            return part
        inputs, gradients, *rest = operator_.args
        inside = part | {self.tangent}
        index = next(i for i, item in enumerate(gradients) if self.tangent in ancestors([item], inside.__contains__))
        self.of_others = {user for user in operator_.users if user.args[1] != index}
        lam = [item for item in rest if isinstance(item, Node)]
        mine = ancestors([inputs[index], gradients[index], *lam], part.__contains__) | {operator_}
        among = [node for node in self.graph.nodes if node in part - self.of_others]
        return mine | set(reached([operator_], among))

    def _constants_to_users(self, order: list[Node]) -> None:
        """What is made of nothing that is drawn (an identity matrix, ``lam``, a size) belongs to what it is used for."""
        made: set[Node] = set()
        for node in order:
            drawn = (item for item in node.all_input_nodes if item in self.group_of and is_tensor_node(item))
            if not is_tensor_node(node) or made.issuperset(drawn):
                made.add(node)
        for node in reversed(order):
            keys = [self.group_of[user] for user in node.users if user in self.group_of]
            if node in made and keys:
                self.group_of[node] = keys[0]

    def _tail(self) -> None:
        """From the weight gradient to that of the parameter."""
        starts = [
            node
            for node, key in self.group_of.items()
            if node is self.gradient or (self._status(node) == "added" and key != _BIAS)
        ]
        leads = ancestors(self.output.all_input_nodes, lambda item: True)
        others = {self.output, *self.of_others}
        for node in reached(starts, [item for item in self.graph.nodes if item not in others]):
            if node in leads and node not in self.group_of:
                self._assign([node], ("tail", self._status(node)))

    def _status(self, node: Node) -> Status:
        if node.name in self.known:
            return "same"
        return "added" if self.after else "removed"

    def _quotient(self) -> Neighbourhood:
        members: dict[Key, list[Node]] = {}
        for node in self.graph.nodes:
            if node in self.group_of:
                members.setdefault(self.group_of[node], []).append(node)
        names = {key: f"box{index}" for index, key in enumerate(members)}
        boxes = {names[key]: self._box(key, nodes) for key, nodes in members.items()}
        edges: dict[tuple[str, str], None] = {}
        for node, key in self.group_of.items():
            for item in node.all_input_nodes:
                other = self.group_of.get(item)
                if other is not None and other != key and is_tensor_node(item) and is_tensor_node(node):
                    edges[names[other], names[key]] = None
        self._rest(boxes, edges, names)
        results = [node for node in self.output.all_input_nodes if self._is_result(node)]
        if results:
            value = value_of(results[0])
            boxes["result"] = Box(self.weight, "its gradient", value, backward=True, kind="result")
            edges.update(dict.fromkeys((names[self.group_of[node]], "result") for node in results))
        return Neighbourhood(in_order(boxes, edges), tuple(edges))

    def _is_result(self, node: Node) -> bool:
        key = self.group_of.get(node)
        if key is None or not is_backward(node):
            return False
        tail = key[0] in ("tail", "added", "choose", "product", "whole")
        return tail or (node is self.gradient and not self._is_unused())

    def _is_unused(self) -> bool:
        """Whether nothing uses the plain gradient any more."""
        users = () if self.gradient is None else self.gradient.users
        return not any(user in self.group_of or user is self.output for user in users)

    def _rest(self, boxes: dict[str, Box], edges: dict[tuple[str, str], None], names: dict[Key, str]) -> None:
        """Stand-ins for everything else between the call's output and the gradient that comes back."""
        others = sum(node.op == "call_function" and node not in self.group_of for node in self.graph.nodes)
        forward = sum(
            node.op == "call_function" and node not in self.group_of and not is_backward(node)
            for node in self.graph.nodes
        )
        if any(user not in self.group_of and not is_backward(user) for user in self.call.users):
            boxes["forward rest"] = Box("rest of the forward pass", counted(forward), kind="rest")
            edges[names["call",], "forward rest"] = None
        if self.tangent.op != "placeholder":
            boxes["backward rest"] = Box(
                "rest of the backward pass", counted(others - forward), backward=True, kind="rest"
            )
            edges["backward rest", names["tangent",]] = None
            if "forward rest" in boxes:
                edges["forward rest", "backward rest"] = None

    def _box(self, key: Key, nodes: list[Node]) -> Box:
        names = tuple(node.name for node in nodes)
        real = [node for node in nodes if node.target is not operator.getitem]
        last = next((node for node in reversed(real) if is_tensor_node(node)), real[-1])
        statuses = {self._status(node) for node in nodes}
        status: Status = statuses.pop() if len(statuses) == 1 else "same"
        value, backward, caption, title = value_of(last), is_backward(last), "", title_of(real)
        match key:
            case ("data" | "weight" as role, _):
                caption = self._operand_caption(role, last)
                if last.op == "placeholder":
                    title = self.weight if role == "weight" and self._weight_has_one_input() else self._name(last)
            case ("call",):
                caption, value = "the layer", value_of(self.call)
            case ("tangent",):
                caption, backward = "dZ, gradient of the output", True
            case ("backward",):
                caption, value = "G, the plain weight gradient", value_of(nodes[-1])
                if self.after and self._is_unused():
                    status, caption = "unused", "G, no longer used"
            case (str(name), int()):
                both = target_of(real[-1]) == "tract_fx.gram_and_gradient"
                caption = "XᵀX and G = dZᵀX, float64" if both else CAPTIONS[name, self.form]
                if len(real) > 1:
                    title = f"{target_of(real[-1])}, {len(real)} times"
            case ("added", before, behind):
                names_before, names_behind = ({item[0] for item in keys} for keys in (before, behind))
                title, caption = meaning_of(names_before, names_behind, self.form) or (title, "")
            case ("bias",):
                caption = "gradient of the bias"
            case ("tail", _):
                caption = "on the way to the parameter"
        kind: Kind = "input" if last.op == "placeholder" else "chain" if len(real) > 1 else "node"
        return Box(title, caption, value, names, status, backward, kind)

    def _operand_caption(self, role: str, node: Node) -> str:
        if role == "weight":
            return "the parameter" if node.op == "placeholder" and self._weight_has_one_input() else "the weight"
        return "data" if node.op == "placeholder" else "the layer's input"

    def _weight_has_one_input(self) -> bool:
        """Whether the weight is made from a single input of the graph."""
        return sum(key[0] == "weight" and item.op == "placeholder" for item, key in self.group_of.items()) == 1


def _one(landmark: dict[Node, Key], node: Node) -> frozenset[Key]:
    return frozenset([landmark[node]]) if node in landmark else frozenset()
