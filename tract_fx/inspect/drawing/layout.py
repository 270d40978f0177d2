"""A layered drawing of a small acyclic graph: where boxes go, and along which points edges run.

After Sugiyama: every box has a rank, an edge over several ranks passes through a narrow place of its own in each of them,
places of a rank are ordered so that few edges cross, and then moved towards their neighbours without overlapping.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Layout", "Place", "arrange", "ranks_of"]

Edge = tuple[str, str]
Point = tuple[float, float]

SWEEPS = 12
# A place of an edge is narrow, and rather keeps straight than a box keeps in the middle of its neighbours.
EDGE_WIDTH = 10.0
EDGE_WEIGHT = 4.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Middle of a box, and its rank."""

    x: float
    rank: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Result of :func:`arrange`.

    Attributes:
        places: of each box.
        edges: for each edge the x coordinates in the ranks from that of its source to that of its target.
        left: smallest x that anything takes.
        right: largest.
    """

    places: dict[str, Place]
    edges: dict[Edge, tuple[float, ...]]
    left: float
    right: float


def ranks_of(boxes: Sequence[str], edges: Iterable[Edge], first: int = 0) -> dict[str, int]:
    """Ranks from ``first`` on: below everything that leads to a box, and what nothing leads to right above its first use.

    Args:
        boxes: in an order in which edges lead forward.
        edges: between them; others are ignored.
        first: the smallest rank.
    """
    order = {box: index for index, box in enumerate(boxes)}
    known = [(a, b) for a, b in edges if a in order and b in order and order[a] < order[b]]
    ranks = dict.fromkeys(boxes, first)
    for source, target in sorted(known, key=lambda edge: order[edge[0]]):
        ranks[target] = max(ranks[target], ranks[source] + 1)
    for box in boxes:
        below = [ranks[target] for source, target in known if source == box]
        if below and all(target != box for _, target in known):
            ranks[box] = min(below) - 1
    return ranks


def arrange(widths: Mapping[str, float], edges: Sequence[Edge], ranks: Mapping[str, int], gap: float) -> Layout:
    """Coordinates for boxes of these widths.

    Args:
        widths: of boxes, in the order in which they are preferred from left to right.
        edges: from a smaller rank to a larger one.
        ranks: of boxes.
        gap: between neighbours.
    """
    chains = {edge: _chain(edge, ranks) for edge in edges}
    sizes = {**widths, **{place: EDGE_WIDTH for chain in chains.values() for place in chain[1:-1]}}
    rows = _rows(widths, chains, ranks)
    above, below = _neighbours(chains)
    _reduce_crossings(rows, above, below)
    x = _coordinates(rows, sizes, above, below, gap)
    return Layout(
        places={box: Place(x[box], ranks[box]) for box in widths},
        edges={edge: tuple(x[place] for place in chain) for edge, chain in chains.items()},
        left=min(x[place] - sizes[place] / 2 for place in x),
        right=max(x[place] + sizes[place] / 2 for place in x),
    )


def _chain(edge: Edge, ranks: Mapping[str, int]) -> list[str]:
    source, target = edge
    between = range(ranks[source] + 1, ranks[target])
    return [source, *(f"{source} -> {target} @ {rank}" for rank in between), target]


def _rows(widths: Mapping[str, float], chains: Mapping[Edge, list[str]], ranks: Mapping[str, int]) -> list[list[str]]:
    rows: list[list[str]] = [[] for _ in range(max(ranks.values()) + 1)]
    for box in widths:
        rows[ranks[box]].append(box)
    for (source, _), chain in chains.items():
        for offset, place in enumerate(chain[1:-1], start=1):
            rows[ranks[source] + offset].append(place)
    return rows


def _neighbours(chains: Mapping[Edge, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains.values():
        for upper, lower in itertools.pairwise(chain):
            below.setdefault(upper, []).append(lower)
            above.setdefault(lower, []).append(upper)
    return above, below


def _reduce_crossings(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Order rows by the mean of their neighbours, downwards and upwards in turn, and keep the best order seen."""
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for index in range(1, len(rows)) if down else reversed(range(len(rows) - 1)):
            fixed = {place: at for at, place in enumerate(rows[index - 1 if down else index + 1])}
            own = {place: at for at, place in enumerate(rows[index])}

            def mean(place: str, fixed: dict[str, int] = fixed, own: dict[str, int] = own) -> float:
                found = [fixed[other] for other in neighbours.get(place, ()) if other in fixed]  # noqa: B023
                return sum(found) / len(found) if found else own[place]

            rows[index].sort(key=mean)
        if (count := _crossings(rows, below)) < fewest:
            best, fewest = [list(row) for row in rows], count
    rows[:] = best


def _crossings(rows: list[list[str]], below: Mapping[str, list[str]]) -> int:
    count = 0
    for upper, lower in itertools.pairwise(rows):
        at = {place: index for index, place in enumerate(lower)}
        ends = [sorted(at[other] for other in below.get(place, ())) for place in upper]
        count += sum(
            a > b for index, first in enumerate(ends) for second in ends[index + 1 :] for a in first for b in second
        )
    return count


def _coordinates(
    rows: list[list[str]],
    sizes: Mapping[str, float],
    above: Mapping[str, list[str]],
    below: Mapping[str, list[str]],
    gap: float,
) -> dict[str, float]:
    x: dict[str, float] = {}
    for row in rows:
        _pack(row, dict.fromkeys(row, 0.0), sizes, gap, x)
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = {}
            for place in row:
                first, second = (above, below) if down else (below, above)
                near = [x[other] for other in first.get(place, ()) or second.get(place, ())]
                wanted[place] = sum(near) / len(near) if near else x[place]
            _pack(row, wanted, sizes, gap, x)
    return x


def _pack(
    row: list[str], wanted: Mapping[str, float], sizes: Mapping[str, float], gap: float, x: dict[str, float]
) -> None:
    """Put a row as near to the wanted places as it goes in its order without overlaps, in the sense of least squares."""
    offsets, at = [], 0.0
    for index, place in enumerate(row):
        if index:
            at += (sizes[row[index - 1]] + sizes[place]) / 2 + gap
        offsets.append(at)
    blocks: list[tuple[float, float, int]] = []  # sum of weights, weighted sum, count: of places pushed together
    for place, offset in zip(row, offsets, strict=True):
        weight = EDGE_WEIGHT if sizes[place] == EDGE_WIDTH else 1.0
        block = (weight, weight * (wanted[place] - offset), 1)
        while blocks and blocks[-1][1] / blocks[-1][0] > block[1] / block[0]:
            last = blocks.pop()
            block = (block[0] + last[0], block[1] + last[1], block[2] + last[2])
        blocks.append(block)
    values = [total / weight for weight, total, count in blocks for _ in range(count)]
    for place, offset, value in zip(row, offsets, values, strict=True):
        x[place] = offset + value
