"""The code of two graphs as one listing in which additions and removals are marked, and long unchanged parts are folded."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from markupsafe import Markup, escape
from torch.fx import Graph, Node

from tract_fx import compat
from tract_fx.inspect.drawing.captions import value_of
from tract_fx.passes.joint_graph import is_backward
from tract_fx.passes.naming import Naming

__all__ = ["Block", "Line", "compare"]

# Unchanged lines shown around a change.
CONTEXT = 4

NO_NAMES: Mapping[str, str] = MappingProxyType({})

Change = Literal["same", "added", "removed"]
Token = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        code: as HTML.
        change: what became of it.
        before: its number in the graph before; None when it is not there.
        after: its number in the graph after, likewise.
        region: ``"forward"``, ``"backward"`` or ``""``.
    """

    code: Markup
    change: Change
    before: int | None
    after: int | None
    region: str


@dataclasses.dataclass(frozen=True)
class Block:
    """Lines in a row; ``folded`` when nothing changes in them or near them."""

    lines: tuple[Line, ...]
    folded: bool = False


def compare(before: Graph, after: Graph, naming: Naming, names: Mapping[str, str] = NO_NAMES) -> list[Block]:
    """The listing of both graphs, modules called by ``naming``, and nodes by ``names`` where it has them."""
    old, new = list(_lines(before, naming, names)), list(_lines(after, naming, names))
    matcher = difflib.SequenceMatcher(None, [text for text, _, _ in old], [text for text, _, _ in new], autojunk=False)
    blocks: list[Block] = []
    opcodes = matcher.get_opcodes()
    for index, (what, old_start, old_stop, new_start, new_stop) in enumerate(opcodes):
        removed = tuple(_line(old[at], "removed", at, None) for at in range(old_start, old_stop))
        if what == "equal":
            pairs = zip(range(old_start, old_stop), range(new_start, new_stop), strict=True)
            lines = tuple(_line(old[a], "same", a, b) for a, b in pairs)
            blocks.extend(_folded(lines, first=index == 0, last=index == len(opcodes) - 1))
        else:
            added = tuple(_line(new[at], "added", None, at) for at in range(new_start, new_stop))
            blocks.append(Block(removed + added))
    return blocks


def _line(item: tuple[str, Markup, str], change: Change, before: int | None, after: int | None) -> Line:
    _, code, region = item
    return Line(code, change, None if before is None else before + 1, None if after is None else after + 1, region)


def _folded(lines: tuple[Line, ...], *, first: bool, last: bool) -> Iterator[Block]:
    """Unchanged lines between two changes: only the nearest are shown."""
    head = 0 if first else CONTEXT
    tail = len(lines) - (0 if last else CONTEXT)
    if tail - head < 3:
        yield Block(lines)
        return
    yield from (Block(part) for part in (lines[:head],) if part)
    yield Block(lines[head:tail], folded=True)
    yield from (Block(part) for part in (lines[tail:],) if part)


def _lines(graph: Graph, naming: Naming, names: Mapping[str, str]) -> Iterator[tuple[str, Markup, str]]:
    """Text, HTML and region of every line: one for each node, and one wherever another module begins."""
    module = ""
    for node in graph.nodes:
        region = "" if node.op == "output" else "backward" if is_backward(node) else "forward"
        if node.op == "call_function" and (here := _module(node, naming)) != module:
            module = here
            yield from _comment(f"# {here or 'outside of any module'}", region)
        tokens = list(_tokens(node, names))
        yield "".join(text for _, text in tokens), _html(tokens), region


def _comment(text: str, region: str) -> Iterator[tuple[str, Markup, str]]:
    yield text, _html([("c", text)]), region


def _module(node: Node, naming: Naming) -> str:
    """The module that a node is of, or that it differentiates: ``layer1.0.conv1 (Conv2d)``."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    if not stack:
        return ""
    path, kind = list(stack.values())[-1][:2]
    name = getattr(kind, "__name__", str(kind).rpartition(".")[2])
    return f"{naming.of_source(path) or 'the model'} ({name})" + (", backward" if is_backward(node) else "")


def _tokens(node: Node, names: Mapping[str, str]) -> Iterator[Token]:
    """``name: dtype[shape] = operator(arguments)``."""
    if node.op == "output":
        yield from (("o", "return "), *_argument(node.args[0], names))
        return
    yield "v", names.get(node.name, node.name)
    if value := value_of(node):
        yield from (("", ": "), ("t", value))
    if node.op == "placeholder":
        yield "c", "  # input"
        return
    yield from (("", " = "), ("o", _operator(node)))
    if node.op == "call_function":
        yield from (("", "("), *_arguments(node, names), ("", ")"))


def _operator(node: Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    target = node.target
    return str(target) if isinstance(target, compat.OpOverload) else getattr(target, "__name__", str(target))


def _arguments(node: Node, names: Mapping[str, str]) -> Iterator[Token]:
    for index, argument in enumerate(node.args):
        yield from ((("", ", "),) if index else ())
        yield from _argument(argument, names)
    for index, (name, argument) in enumerate(node.kwargs.items()):
        yield from ((("", ", "),) if index or node.args else ())
        yield from (("", f"{name}="), *_argument(argument, names))


def _argument(value: Any, names: Mapping[str, str]) -> Iterator[Token]:
    if isinstance(value, Node):
        yield "", names.get(value.name, value.name)
    elif isinstance(value, (list, tuple)):
        opening, closing = "[]" if isinstance(value, list) else "()"
        yield "", opening
        for index, item in enumerate(value):
            yield from ((("", ", "),) if index else ())
            yield from _argument(item, names)
        yield "", closing
    else:
        yield "k", repr(value) if isinstance(value, str) else str(value)


def _html(tokens: list[Token]) -> Markup:
    spans = (Markup('<span class="{}">{}</span>').format(kind, text) if kind else escape(text) for kind, text in tokens)
    return Markup("").join(spans)
