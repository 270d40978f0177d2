"""Ways through a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch.fx import Node

__all__ = ["ancestors", "connected", "in_order", "reached"]

T = TypeVar("T")


def ancestors(nodes: Iterable[Node], enter: Callable[[Node], bool]) -> set[Node]:
    """The nodes and everything that they are computed from, as far as ``enter`` lets through."""
    found: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found and enter(node):
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def connected(start: Node, among: set[Node]) -> set[Node]:
    """Nodes that hang together with one of them."""
    found: set[Node] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if node in among and node not in found:
            found.add(node)
            pending.extend((*node.all_input_nodes, *node.users))
    return found


def reached(starts: Iterable[Node], among: Iterable[Node]) -> list[Node]:
    """Nodes, in the order of the graph, that something is computed from that starts there."""
    seen, found = set(starts), []
    for node in among:
        if not seen.isdisjoint(node.all_input_nodes):
            seen.add(node)
            found.append(node)
    return found


def in_order(boxes: dict[str, T], edges: Iterable[tuple[str, str]]) -> dict[str, T]:
    """Boxes so that edges lead forward."""
    waiting = {name: {source for source, target in edges if target == name} for name in boxes}
    ordered: dict[str, T] = {}
    while waiting:
        # Groups of nodes might depend on each other; one of them then goes first.
        ready = next((name for name, needs in waiting.items() if needs <= ordered.keys()), next(iter(waiting)))
        ordered[ready] = boxes[ready]
        del waiting[ready]
    return ordered
