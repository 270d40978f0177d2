"""Which tests are left to ``.ci/run``: the table of the files of which only some belong to the fast set.

``python -m pytest`` runs the fast set. ``python -m pytest -m slow`` runs the rest, ``-m ""`` all. A test is marked ``slow``
where it stands, with ``@pytest.mark.slow`` or ``pytestmark``, or here: by file, what is slow of it, and which of that is fast all
the same. Patterns are those of ``fnmatch`` for what follows the file in a test's name; ``[`` is an ordinary character.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

import pytest


@dataclasses.dataclass(frozen=True)
class Split:
    """Patterns of the slow tests of a file, and the exceptions from them."""

    slow: tuple[str, ...] = ("*",)
    fast: tuple[str, ...] = ()

    def is_slow(self, name: str) -> bool:
        """Whether a test of the file, named as behind ``::``, is left to the slow set."""
        return _matches(name, self.slow) and not _matches(name, self.fast)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


# Below `tests/`.
SPLITS: dict[str, Split] = {}


def mark(item: pytest.Item) -> None:
    """Adds the mark if the table has it."""
    file, _, name = item.nodeid.removeprefix("tests/").partition("::")
    split = SPLITS.get(file)
    if split and split.is_slow(name):
        item.add_marker(pytest.mark.slow)
