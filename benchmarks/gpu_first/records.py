"""Results of one part: a file of JSON lines, each written when it is known."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tract_fx.environment import environment
from tract_fx.source_hash import source_hash

__all__ = ["Records"]

# What has to be the same for a result not to be measured again.
SAME = ("sources", "torch", "triton", "gpu", "device", "tiny")


@dataclasses.dataclass(frozen=True)
class Records:
    """Where the results of a part are, and on what they are measured.

    Attributes:
        part: name of the part, and of its file.
        out: folder of the files.
        device: ``"cuda"``, or ``"cpu"`` for a dry run.
        tiny: whether everything is as small as it gets, for a dry run.
    """

    part: str
    out: Path
    device: str
    tiny: bool = False

    @property
    def path(self) -> Path:
        """The part's file."""
        return self.out / f"{self.part}.jsonl"

    @functools.cached_property
    def surroundings(self) -> dict[str, Any]:
        """What stands in every line."""
        return {
            "benchmark": "gpu_first",
            "part": self.part,
            "device": self.device,
            "tiny": self.tiny,
            "sources": source_hash()[:16],
            "triton": _triton_version(),
            "cuda": torch.version.cuda,
            **environment(self.device),
        }

    def write(self, key: str, **values: Any) -> None:
        """Append one result; ``key`` names it among those of the part."""
        self.out.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, **values, **self.surroundings}) + "\n")

    def found(self) -> dict[str, dict[str, Any]]:
        """The latest result of each key, of the same sources, versions and device."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {record["key"]: record for record in map(_parsed, lines) if record and self._is_same(record)}

    def _is_same(self, record: Mapping[str, Any]) -> bool:
        return all(record.get(name) == self.surroundings.get(name) for name in SAME)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line; None for one that a process was ended in the middle of."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__
