"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["table"]


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    body = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in body)
