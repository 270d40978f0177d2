"""Boxes do not overlap, edges lead downwards, and what is simple looks simple."""

from __future__ import annotations

import itertools
import random

import pytest

from tract_fx.inspect.drawing.layout import EDGE_WIDTH, arrange, ranks_of

WIDTH, GAP = 100.0, 10.0


def random_graph(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    generator = random.Random(seed)
    boxes = [f"b{index}" for index in range(generator.randint(2, 14))]
    pairs = list(itertools.combinations(boxes, 2))
    return boxes, generator.sample(pairs, generator.randint(1, min(len(pairs), 20)))


@pytest.mark.parametrize("seed", range(30))
def test_nothing_overlaps_and_every_edge_leads_down(seed: int) -> None:
    boxes, edges = random_graph(seed)
    ranks = ranks_of(boxes, edges)
    assert all(ranks[source] < ranks[target] for source, target in edges)
    layout = arrange(dict.fromkeys(boxes, WIDTH), edges, ranks, GAP)
    rows: dict[int, list[tuple[float, float]]] = {}
    for place in layout.places.values():
        rows.setdefault(place.rank, []).append((place.x, WIDTH))
    for (source, target), xs in layout.edges.items():
        assert len(xs) == ranks[target] - ranks[source] + 1
        assert (xs[0], xs[-1]) == (layout.places[source].x, layout.places[target].x)
        for rank, x in enumerate(xs[1:-1], start=ranks[source] + 1):
            rows[rank].append((x, EDGE_WIDTH))
    for row in rows.values():
        for (x, width), (next_x, next_width) in itertools.pairwise(sorted(row)):
            assert next_x - x >= (width + next_width) / 2 + GAP - 1e-6
    assert all(layout.left <= place.x - WIDTH / 2 for place in layout.places.values())
    assert all(layout.right >= place.x + WIDTH / 2 for place in layout.places.values())


def test_a_chain_is_straight() -> None:
    boxes = ["a", "b", "c", "d"]
    edges = list(itertools.pairwise(boxes))
    layout = arrange(dict.fromkeys(boxes, WIDTH), edges, ranks_of(boxes, edges), GAP)
    assert len({place.x for place in layout.places.values()}) == 1


def test_edges_that_need_not_cross_do_not() -> None:
    edges = [("a", "d"), ("b", "c")]
    ranks = {"a": 0, "b": 0, "c": 1, "d": 1}
    places = arrange(dict.fromkeys("abcd", WIDTH), edges, ranks, GAP).places
    assert (places["a"].x < places["b"].x) == (places["d"].x < places["c"].x)


def test_what_nothing_leads_to_stands_right_above_its_first_use() -> None:
    ranks = ranks_of(["a", "b", "late", "c"], [("a", "b"), ("b", "c"), ("late", "c")])
    assert ranks == {"a": 0, "b": 1, "late": 1, "c": 2}
