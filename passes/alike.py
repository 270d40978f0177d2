"""Which matches have systems of one shape, so small that they are better solved together.

Only on a CPU: there an operator costs more than the arithmetic of a small system. The operator, and what is meant by
together, is :mod:`tract_fx.ops.alike`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch.fx import Node

from tract_fx.passes.calls import Kind
from tract_fx.passes.first_layer import Match

__all__ = ["FEWEST_ALIKE", "alike"]

# Fewer layers are not worth that their gradients wait for one another.
FEWEST_ALIKE = 4
# More features make a system for which an operator of its own costs little.
MOST_FEATURES = 512


def alike(matches: Iterable[Match]) -> list[tuple[Match, ...]]:
    """The matches in groups of one shape, in the order of their first members; one by one where there are few."""
    groups: dict[Hashable, list[Match]] = {}
    for match in matches:
        groups.setdefault(_key(match), []).append(match)
    found: list[tuple[Match, ...]] = []
    for group in groups.values():
        found += [tuple(group)] if len(group) >= FEWEST_ALIKE else [(match,) for match in group]
    return found


def _key(match: Match) -> Hashable:
    """Equal for layers that can be solved together; one of its own for a layer that cannot."""
    device = match.call.input.meta["val"].device
    if match.call.kind is not Kind.PRODUCT or match.batch or match.features > MOST_FEATURES or device.type != "cpu":
        return id(match)
    nodes = match.call.input, match.gradient.output_gradient, match.gradient.node
    return match.call.side, match.gradient.scale == 1, device, *map(_layout, nodes)


def _layout(node: Node) -> Hashable:
    """Dtype and sizes of a value; a symbolic size is compared by its formula, which adds no guard."""
    value = node.meta["val"]
    return value.dtype, tuple(map(str, value.shape))
