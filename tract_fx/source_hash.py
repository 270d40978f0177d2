"""Which source code runs: part of the key under which compiled graphs and their records are cached."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

__all__ = ["source_hash"]


@functools.cache
def source_hash() -> str:
    """SHA-256, in hexadecimal, of every source file of the package and of its passes.

    A new version never takes a graph that an old one cached. Paths are hashed relative to the two folders, so that the
    hash depends neither on where the package is installed nor on whether the passes lie beside it or inside it.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_sources()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources() -> set[tuple[str, Path]]:
    root = Path(__file__).parent
    # Found and not imported: passes stand above this module.
    found = importlib.util.find_spec("tract_fx.passes")
    assert found is not None
    assert found.origin is not None
    of_passes = Path(found.origin).parent
    return {
        *((f"passes/{path.relative_to(of_passes).as_posix()}", path) for path in of_passes.rglob("*.py")),
        *(
            (path.relative_to(root).as_posix(), path)
            for path in root.rglob("*.py")
            if not path.is_relative_to(of_passes)
        ),
    }
