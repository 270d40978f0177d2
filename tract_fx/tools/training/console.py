"""What commands that train say in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

__all__ = ["rewritten", "say"]


def say(console: Console, *lines: str) -> None:
    """Print lines as they are, whatever the width of the terminal."""
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def rewritten(matches: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each layer that TrAct rewrote."""
    return [
        f"TrAct rewrote {match['layer'] or match['weight']} ({match['op']}: {match['rows']} rows of {match['features']} "
        f"features, {match['form']} form)"
        for match in matches
    ]
