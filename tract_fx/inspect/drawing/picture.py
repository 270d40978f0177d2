"""A neighbourhood as an SVG picture: boxes in two bands, forward and backward, colours from the page's style sheet.

What became of a box is said by its colour, by its outline and by a sign in its corner.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from markupsafe import Markup

from tract_fx.inspect.drawing.layout import Layout, arrange, ranks_of
from tract_fx.inspect.drawing.neighbourhood import Box, Neighbourhood

__all__ = ["Picture", "draw"]

WIDTH = 196.0
HEIGHT = 66.0
GAP = 18.0
ROW = HEIGHT + 30.0
MARGIN = 16.0
# Above the first row of a band, for its name; and between two bands.
HEADING = 34.0
BETWEEN = 14.0

# Characters that fit into a box in each of its lines.
TITLE_LENGTH = 28
# Longer titles are set smaller.
LARGE_TITLE_LENGTH = 20
CAPTION_LENGTH = 33
VALUE_LENGTH = 29

SIGNS = {"added": "+", "removed": "−", "unused": "○", "same": ""}


class Picture(NamedTuple):
    """An ``<svg>`` element, which scales with its container, and the width that it would have by itself."""

    svg: Markup
    width: int


def draw(what: Neighbourhood, title: str) -> Picture:
    """Boxes in ranks.

    Args:
        what: the boxes.
        title: what the picture shows, for those who do not see it.
    """
    forward = [name for name, box in what.boxes.items() if not box.backward]
    backward = [name for name, box in what.boxes.items() if box.backward]
    ranks = ranks_of(forward, what.edges)
    border = max(ranks.values(), default=-1) + 1
    ranks |= ranks_of(backward, what.edges, border)
    edges = [(source, target) for source, target in what.edges if ranks[source] < ranks[target]]
    layout = arrange(dict.fromkeys(what.boxes, WIDTH), edges, ranks, GAP)
    canvas = _Canvas(what, layout, border, max(ranks.values()) + 1)
    return Picture(canvas.svg(title), round(canvas.width))


class _Canvas:
    def __init__(self, what: Neighbourhood, layout: Layout, border: int, ranks: int) -> None:
        self.what, self.layout, self.border, self.ranks = what, layout, border, ranks
        self.left = layout.left - MARGIN
        self.width = layout.right - layout.left + 2 * MARGIN

    def top(self, rank: int) -> float:
        """Upper edge of the boxes of a rank."""
        bands = 1 if rank < self.border or not self.border else 2
        return rank * ROW + HEADING * bands + (BETWEEN if bands == 2 else 0)

    def svg(self, title: str) -> Markup:
        height = self.top(self.ranks - 1) + HEIGHT + MARGIN
        parts = [*self._bands(), *self._edges(), *self._band_names(), *self._boxes()]
        head = Markup(
            '<svg class="picture" viewBox="{} 0 {} {}" style="max-width:{}px" role="img" aria-label="{}">'
        ).format(_number(self.left), _number(self.width), _number(height), _number(self.width * 1.12), title)
        return head + Markup("\n").join(parts) + Markup("</svg>")

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        """Name, first rank and end of the bands that have boxes."""
        bands = ("forward", 0, self.border), ("backward", self.border, self.ranks)
        return (band for band in bands if band[1] < band[2])

    def _bands(self) -> Iterator[Markup]:
        for name, first, end in self._spans():
            top = self.top(first) - HEADING
            height = self.top(end - 1) + HEIGHT + MARGIN - top - (4 if name == "forward" else 0)
            sizes = map(_number, (self.left + 1, top + 1, self.width - 2, height - 2))
            yield Markup('<rect class="band {}" x="{}" y="{}" width="{}" height="{}" rx="10"/>').format(name, *sizes)

    def _band_names(self) -> Iterator[Markup]:
        """Above the edges, which may run below them."""
        for name, first, _ in self._spans():
            at = _number(self.left + 14), _number(self.top(first) - HEADING + 21)
            yield Markup('<text class="band-name {0}" x="{1}" y="{2}">{0} pass</text>').format(name, *at)

    def _edges(self) -> Iterator[Markup]:
        for (source, target), xs in self.layout.edges.items():
            first, second = self.what.boxes[source], self.what.boxes[target]
            kind: str = second.status if second.status in ("added", "removed") else first.status
            if first.kind == second.kind == "rest":
                kind = "loss"
            start, rank = self.layout.places[source], self.layout.places[source].rank
            points = [(start.x + self._port(source, target, out=True), self.top(rank) + HEIGHT)]
            for offset, x in enumerate(xs[1:-1], start=1):
                points += [(x, self.top(rank + offset) - 6), (x, self.top(rank + offset) + HEIGHT + 6)]
            end = self.layout.places[target]
            points.append((end.x + self._port(source, target, out=False), self.top(end.rank) - 7))
            yield Markup('<path class="edge {}" d="{}"/><path class="tip {}" d="{}"/>').format(
                kind, _curve(points), kind, _tip(*points[-1])
            )

    def _port(self, source: str, target: str, *, out: bool) -> float:
        """Where an edge leaves or enters a box, from its middle: side by side with its others, in their order."""
        ends = [pair for pair in self.layout.edges if (pair[0] == source if out else pair[1] == target)]
        near = 1 if out else -2
        ends.sort(key=lambda pair: self.layout.edges[pair][near])
        at = ends.index((source, target)) + 1
        return (at / (len(ends) + 1) - 0.5) * WIDTH * 0.7

    def _boxes(self) -> Iterator[Markup]:
        for name, box in self.what.boxes.items():
            place = self.layout.places[name]
            yield _drawn(box, place.x - WIDTH / 2, self.top(place.rank))


def _drawn(box: Box, x: float, y: float) -> Markup:
    middle = Markup('<g class="box {} {}" transform="translate({} {})">{}').format(
        box.status, box.kind, _number(x), _number(y), _hint(box)
    )
    radius = 8 if box.kind not in ("input", "result", "rest") else HEIGHT / 2
    parts = [
        middle,
        Markup('<rect width="{}" height="{}" rx="{}"/>').format(_number(WIDTH), _number(HEIGHT), _number(radius)),
    ]
    size = "title" if len(box.title) <= LARGE_TITLE_LENGTH else "title small"
    lines = [
        (size, box.title, TITLE_LENGTH),
        ("caption", box.caption, CAPTION_LENGTH),
        ("value", box.value, VALUE_LENGTH),
    ]
    shown = [(kind, _shortened(text, length)) for kind, text, length in lines if text]
    first = HEIGHT / 2 - 8.5 * (len(shown) - 1) + (6 if box.kind == "chain" else 4)
    for index, (kind, text) in enumerate(shown):
        parts.append(
            Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
                kind, _number(WIDTH / 2), _number(first + 17 * index), text
            )
        )
    if sign := SIGNS[box.status]:
        parts.append(Markup('<circle class="sign" cx="{}" cy="0" r="9"/>').format(_number(WIDTH - 14)))
        parts.append(Markup('<text class="sign" x="{}" y="4.5">{}</text>').format(_number(WIDTH - 14), sign))
    if box.kind == "chain":
        count = f"{len(box.nodes)} nodes"
        parts.append(
            Markup('<rect class="count" x="10" y="-8" width="{}" height="16" rx="8"/>').format(
                _number(6.4 * len(count) + 12)
            )
        )
        parts.append(
            Markup('<text class="count" x="{}" y="3.6">{}</text>').format(_number(3.2 * len(count) + 16), count)
        )
    return Markup("").join([*parts, Markup("</g>")])


def _hint(box: Box) -> Markup:
    """What is shown where the mouse rests: everything, in full."""
    words = {
        "added": "added by the pass",
        "removed": "removed by the pass",
        "unused": "no longer used",
        "same": "",
    }
    lines = [box.title, box.caption, box.value, words[box.status], ", ".join(box.nodes)]
    return Markup("<title>{}</title>").format("\n".join(filter(None, lines)))


def _shortened(text: str, length: int) -> str:
    """Of a qualified name the end says more than the beginning."""
    if len(text) <= length:
        return text
    is_name = "." in text and " " not in text
    return "…" + text[1 - length :] if is_name else text[: length - 1] + "…"


def _curve(points: list[tuple[float, float]]) -> str:
    """A line through points from top to bottom that is vertical at each."""
    path = [f"M{_number(points[0][0])} {_number(points[0][1])}"]
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        middle = _number((y + to_y) / 2)
        path.append(f"C{_number(x)} {middle} {_number(to_x)} {middle} {_number(to_x)} {_number(to_y)}")
    return "".join(path)


def _tip(x: float, y: float) -> str:
    return f"M{_number(x - 4.5)} {_number(y - 2)}L{_number(x + 4.5)} {_number(y - 2)}L{_number(x)} {_number(y + 6)}Z"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
