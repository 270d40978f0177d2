"""The file of a run: JSON lines, and beside it a checkpoint as long as the run is not finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tract_fx.tools.errors import JournalError

__all__ = ["Journal", "read"]


class Journal:
    """What a run leaves on disk: a line with what it is, a line for each epoch, and one that says it is finished.

    The checkpoint is written after the epoch's line; what the file has beyond it, or without it, is run again.
    """

    def __init__(self, path: Path, identity: dict[str, Any], environment: dict[str, Any]) -> None:
        """Open or begin the file.

        Args:
            path: of the JSON lines.
            identity: what must be the same for a run to be this one.
            environment: versions and hardware.

        Raises:
            JournalError: where the file is of another run.
        """
        self.path = path
        self._checkpoint = path.with_suffix(".checkpoint")
        self._lines = read(path) if path.exists() else []
        if not self._lines:
            self._lines = [{**identity, "environment": environment}]
        for key, value in identity.items():
            if (found := self._lines[0].get(key)) != value:
                raise JournalError(
                    f"{path} is of another run: {key} was {found}, and is {value} now. "
                    "Take another folder with --out, or remove the file."
                )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self._lines[-1].get("finished"))

    def resume(self) -> dict[str, Any] | None:
        """State to go on from, None at the beginning; the file then has the epochs up to it and no more."""
        state = torch.load(self._checkpoint, weights_only=True) if self._checkpoint.exists() else None
        epochs = [line for line in self._lines[1:] if state and line.get("epoch", 0) <= state["epoch"]]
        self._lines = [self._lines[0], *epochs]
        self._write()
        return state

    def epoch(self, line: dict[str, Any], state: dict[str, Any]) -> None:
        """Note an epoch, and what is needed to go on after it."""
        self._lines.append(line)
        self._write()
        _replace(self._checkpoint, lambda path: torch.save(state, path))

    def finish(self, line: dict[str, Any]) -> None:
        """The run is complete."""
        self._lines.append({"finished": True, **line})
        self._write()
        self._checkpoint.unlink(missing_ok=True)

    def _write(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        _replace(self.path, lambda path: path.write_text(text))


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a run's file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _replace(path: Path, write: Any) -> None:
    """Never half a file, whenever the process is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(path.suffix + ".new")
    write(new)
    new.replace(path)
