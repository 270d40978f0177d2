"""Which nodes of a joint graph are worth drawing around a rewrite, and which of them become one box.

Shown are the layer's call with what its operands are made from, its backward pass, what is made of its weight gradient up to
the parameter's, and what the pass has added. Added nodes are told apart by the four operators that matter - Gram matrix,
factorisation, solution, choice - which have boxes of their own: all others with the same of these before them and the same
behind them are one box. Edges are tensors; sizes are not drawn.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import torch
from torch.fx import Graph, Node

from tract_fx.inspect.nodes import LayerNodes
from tract_fx.passes.joint_graph import is_backward, target_of

__all__ = ["Box", "Neighbourhood", "neighbourhood", "value_of"]

Status = Literal["same", "added", "removed", "unused"]

# Operators with a box of their own among added nodes, by what they are called here.
_LANDMARKS = {
    "tract_fx.patch_gram": "gram",
    "linalg_cholesky_ex": "factor",
    "cholesky_solve": "solve",
    "where": "choose",
    "bmm": "product",
    "mm": "product",
}
_CAPTIONS = {
    ("gram", "primal"): "XᵀX of all patches",
    ("gram", "dual"): "XXᵀ of all rows",
    ("factor", "primal"): "C + λI = LLᵀ",
    ("factor", "dual"): "XXᵀ / r + λI = LLᵀ",
    ("solve", "primal"): "(C + λI)⁻¹ Gᵀ",
    ("solve", "dual"): "(XXᵀ / r + λI)⁻¹ dZ",
    ("choose", "primal"): "plain, should the factor fail",
    ("choose", "dual"): "plain, should the factor fail",
    ("product", "dual"): "times X",
    ("product", "primal"): "",
}
# Of an operator that is a layer, the name stands for the nodes around it.
_MAIN = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm")
# Sources drawn one by one; more are counted.
_MOST_SOURCES = 2

Key = tuple[object, ...]


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
    kind: Literal["node", "chain", "input", "result", "rest"] = "node"


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """Boxes by a name, in an order in which edges lead forward."""

    boxes: dict[str, Box]
    edges: tuple[tuple[str, str], ...]


def neighbourhood(
    graph: Graph, layer: LayerNodes, weight: str, form: str, known: Collection[str], *, after: bool
) -> Neighbourhood:
    """What to draw of one side.

    Args:
        graph: before or after the pass.
        layer: the nodes of the layer.
        weight: name of the parameter.
        form: ``"primal"`` or ``"dual"``.
        known: names of the nodes of the graph on the other side.
        after: which of both this is.
    """
    return _Drawing(graph, layer, weight, form, known, after).result()


def value_of(node: Node) -> str:
    """Shape and dtype as PyTorch abbreviates them, ``f32[64, 3, 7, 7]``; of several the first."""
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    if not isinstance(value, torch.Tensor):
        return "" if value is None else f"{type(value).__name__} {value}"
    return f"{_abbreviated(value.dtype)}[{', '.join(map(str, value.shape))}]"


def _abbreviated(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    for long, short in (
        ("bfloat", "bf"),
        ("float", "f"),
        ("complex", "c"),
        ("uint", "u"),
        ("int", "i"),
        ("bool", "b8"),
    ):
        if name.startswith(long):
            return short + name.removeprefix(long)
    return name


class _Drawing:
    def __init__(
        self, graph: Graph, layer: LayerNodes, weight: str, form: str, known: Collection[str], after: bool
    ) -> None:
        self.graph, self.weight, self.form, self.known, self.after = graph, weight, form, known, after
        self.nodes = {node.name: node for node in graph.nodes}
        self.input, self.operand, self.call = (self.nodes[name] for name in (layer.input, layer.weight, layer.output))
        self.gradient, self.tangent = self.nodes[layer.gradient], self.nodes[layer.output_gradient]
        self.output = graph.output_node()
        self.group_of: dict[Node, Key] = {}

    def result(self) -> Neighbourhood:
        self._operand(self.input, "data")
        self._operand(self.operand, "weight")
        self._between((self.input, self.operand), self.call, ("call",))
        self._assign([self.tangent], ("tangent",))
        self._between((self.tangent, self.input), self.gradient, ("backward",))
        if self.after:
            self._added()
        self._tail()
        return self._quotient()

    def _assign(self, nodes: Iterable[Node], key: Key) -> None:
        for node in nodes:
            self.group_of.setdefault(node, key)
            for user in node.users:
                if user.target is operator.getitem:
                    self.group_of.setdefault(user, key)

    def _operand(self, node: Node, role: str) -> None:
        """What an operand is made from: inputs of the graph one by one, if they are few, and everything between."""
        ancestors = _ancestors([node], lambda item: not is_backward(item))
        sources = [
            item for item in self.graph.nodes if item in ancestors and item.op == "placeholder" and _is_tensor(item)
        ]
        inner = [item for item in self.graph.nodes if item in ancestors and item.op != "placeholder"]
        if len(sources) <= _MOST_SOURCES:
            for source in sources:
                self._assign([source], (role, source.name))
        self._assign(inner, (role, "made"))

    def _between(self, starts: tuple[Node, ...], end: Node, key: Key) -> None:
        """Nodes on the ways from some nodes to another one."""
        stop = set(starts)
        before = _ancestors([end], lambda item: item not in stop)
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
                landmark[node] = (name, sum(key[0] == name for key in seen))
        behind: dict[Node, frozenset[Key]] = {}
        for node in reversed(order):
            users = [item for item in node.users if item in mine]
            behind[node] = frozenset[Key]().union(*(behind[item] | _one(landmark, item) for item in users))
        for node in order:
            self._assign([node], landmark.get(node) or ("added", before[node], behind[node]))
        self._constants_to_users(order)

    def _rewrite(self) -> set[Node]:
        """The added nodes of this layer, which hang together.

        They start from its plain gradient, or in the dual form from its input and the gradient of its output.
        """
        new = {node for node in self.graph.nodes if node.name not in self.known}
        dual: set[Node] = set()
        while new:
            part = _connected(next(iter(new)), new)
            new -= part
            sources = {item for node in part for item in node.all_input_nodes}
            if self.gradient in sources:
                return part
            if {self.input, self.tangent} <= sources:
                dual = part
        return dual

    def _constants_to_users(self, order: list[Node]) -> None:
        """What is made of nothing that is drawn (an identity matrix, ``lam``, a size) belongs to what it is used for."""
        made: set[Node] = set()
        for node in order:
            drawn = (item for item in node.all_input_nodes if item in self.group_of and _is_tensor(item))
            if not _is_tensor(node) or made.issuperset(drawn):
                made.add(node)
        for node in reversed(order):
            keys = [self.group_of[user] for user in node.users if user in self.group_of]
            if node in made and keys:
                self.group_of[node] = keys[0]

    def _tail(self) -> None:
        """From the weight gradient to that of the parameter."""
        starts = [self.gradient, *(node for node in self.group_of if self._status(node) == "added")]
        leads = _ancestors(self.output.all_input_nodes, lambda item: True)
        for node in _reached(starts, [item for item in self.graph.nodes if item is not self.output]):
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
                if other is not None and other != key and _is_tensor(item) and _is_tensor(node):
                    edges[names[other], names[key]] = None
        self._rest(boxes, edges, names)
        results = [node for node in self.output.all_input_nodes if self._is_result(node)]
        if results:
            value = value_of(results[0])
            boxes["result"] = Box(self.weight, "its gradient", value, backward=True, kind="result")
            edges.update(dict.fromkeys((names[self.group_of[node]], "result") for node in results))
        return Neighbourhood(_in_order(boxes, edges), tuple(edges))

    def _is_result(self, node: Node) -> bool:
        key = self.group_of.get(node)
        if key is None or not is_backward(node):
            return False
        tail = key[0] in ("tail", "added", "choose", "product")
        return tail or (node is self.gradient and not self._is_unused())

    def _is_unused(self) -> bool:
        """Whether nothing uses the plain gradient any more."""
        return not any(user in self.group_of or user is self.output for user in self.gradient.users)

    def _rest(self, boxes: dict[str, Box], edges: dict[tuple[str, str], None], names: dict[Key, str]) -> None:
        """Stand-ins for everything else between the call's output and the gradient that comes back."""
        others = sum(node.op == "call_function" and node not in self.group_of for node in self.graph.nodes)
        forward = sum(
            node.op == "call_function" and node not in self.group_of and not is_backward(node)
            for node in self.graph.nodes
        )
        if any(user not in self.group_of and not is_backward(user) for user in self.call.users):
            boxes["forward rest"] = Box("rest of the forward pass", _counted(forward), kind="rest")
            edges[names["call",], "forward rest"] = None
        if self.tangent.op != "placeholder":
            boxes["backward rest"] = Box(
                "rest of the backward pass", _counted(others - forward), backward=True, kind="rest"
            )
            edges["backward rest", names["tangent",]] = None
            if "forward rest" in boxes:
                edges["forward rest", "backward rest"] = None

    def _box(self, key: Key, nodes: list[Node]) -> Box:
        names = tuple(node.name for node in nodes)
        real = [node for node in nodes if node.target is not operator.getitem]
        last = next((node for node in reversed(real) if _is_tensor(node)), real[-1])
        statuses = {self._status(node) for node in nodes}
        status: Status = statuses.pop() if len(statuses) == 1 else "same"
        value, backward, caption, title = value_of(last), is_backward(last), "", _title(real)
        match key:
            case ("data" | "weight" as role, _):
                caption = self._operand_caption(role, last)
                if last.op == "placeholder":
                    title = self.weight if role == "weight" and self._is_the_weight(last) else last.name
            case ("call",):
                caption, value = "the layer", value_of(self.call)
            case ("tangent",):
                caption, backward = "dZ, gradient of the output", True
            case ("backward",):
                caption, value = "G, the plain weight gradient", value_of(self.gradient)
                if self.after and self._is_unused():
                    status, caption = "unused", "G, no longer used"
            case (str(name), int()):
                caption = _CAPTIONS[name, self.form]
                value = value_of(nodes[1]) if name == "factor" and len(nodes) > 1 else value
                if len(real) > 1:
                    title = f"{target_of(real[-1])}, {len(real)} times"
            case ("added", before, behind):
                title, caption = _meaning({item[0] for item in before}, {item[0] for item in behind}, self.form) or (
                    title,
                    "",
                )
            case ("tail", _):
                caption = "on the way to the parameter"
        kind = "input" if last.op == "placeholder" else "chain" if len(real) > 1 else "node"
        return Box(title, caption, value, names, status, backward, kind)

    def _operand_caption(self, role: str, node: Node) -> str:
        if role == "weight":
            return "the parameter" if node.op == "placeholder" and self._is_the_weight(node) else "the weight"
        return "data" if node.op == "placeholder" else "the layer's input"

    def _is_the_weight(self, node: Node) -> bool:
        """Whether the only input that the weight is made from is this one."""
        return sum(key[0] == "weight" and item.op == "placeholder" for item, key in self.group_of.items()) == 1


def _title(nodes: list[Node]) -> str:
    """The operator that matters, with the number of others around it."""
    main = [node for node in nodes if node.op == "call_function" and target_of(node) in _MAIN]
    if len(nodes) == 1:
        return nodes[0].name if nodes[0].op != "call_function" else target_of(nodes[0])
    if len(main) == 1:
        return target_of(main[0])
    operators = list(
        dict.fromkeys(target_of(node).removeprefix("prims.") for node in nodes if node.op == "call_function")
    )
    return ", ".join(operators[:2]) + (", …" if len(operators) > 2 else "")


def _meaning(before: set[object], behind: set[object], form: str) -> tuple[str, str] | None:
    """Title and caption of added nodes between landmarks."""
    matrix = "C" if form == "primal" else "XXᵀ / r"
    if "gram" in behind:
        return "rows of the layer", "X"
    if "factor" in behind:
        return "÷ rows, + λI", f"{matrix} + λI"
    if "factor" in before and "solve" not in before:
        return "info = 0", "did the factorisation succeed?"
    if "choose" in behind and ("product" if form == "dual" else "solve") in before:
        return "new gradient", "G′"
    if "solve" in before and "product" in behind:
        return "coefficients", "of every row"
    if "choose" in before:
        return "shape, dtype", "those of the plain gradient"
    if "solve" in behind:
        return "in float64", "the right-hand side"
    if "product" in behind:
        return "in float64", "X"
    return None


def _in_order(boxes: dict[str, Box], edges: Iterable[tuple[str, str]]) -> dict[str, Box]:
    """Boxes so that edges lead forward."""
    waiting = {name: {source for source, target in edges if target == name} for name in boxes}
    ordered: dict[str, Box] = {}
    while waiting:
        # Groups of nodes might depend on each other; one of them then goes first.
        ready = next((name for name, needs in waiting.items() if needs <= ordered.keys()), next(iter(waiting)))
        ordered[ready] = boxes[ready]
        del waiting[ready]
    return ordered


def _ancestors(nodes: Iterable[Node], enter: Callable[[Node], bool]) -> set[Node]:
    """The nodes and everything that they are computed from, as far as ``enter`` lets through."""
    found: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found and enter(node):
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _connected(start: Node, among: set[Node]) -> set[Node]:
    """Nodes that hang together with one of them."""
    found: set[Node] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if node in among and node not in found:
            found.add(node)
            pending.extend((*node.all_input_nodes, *node.users))
    return found


def _reached(starts: Iterable[Node], among: Iterable[Node]) -> list[Node]:
    """Nodes, in the order of the graph, that something is computed from that starts there."""
    seen, found = set(starts), []
    for node in among:
        if not seen.isdisjoint(node.all_input_nodes):
            seen.add(node)
            found.append(node)
    return found


def _one(landmark: dict[Node, Key], node: Node) -> frozenset[Key]:
    return frozenset([landmark[node]]) if node in landmark else frozenset()


def _is_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return any(isinstance(item, torch.Tensor) for item in (value if isinstance(value, (tuple, list)) else (value,)))


def _counted(number: int) -> str:
    return f"{number:,} nodes" if number != 1 else "1 node"
