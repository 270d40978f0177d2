"""Live progress of a training; a line per epoch where there is no terminal to draw in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from tract_fx.tools.training.console import say

__all__ = ["Watcher", "watching"]

Batches = Iterable[tuple[Tensor, Tensor]]


class Watcher(Protocol):
    """Is told how a training goes."""

    def counted(self, batches: Batches) -> Batches:
        """The same batches, of which each counts as a step once the next one is asked for."""

    def epoch(self, label: str, number: int, loss: float, accuracy: float) -> None:
        """An epoch of the training with this label is done; numbers count from 1."""


class LiveWatcher:
    """Moves a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def counted(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """Advance the bar with each step."""
        for batch in batches:
            yield batch
            self._progress.update(self._task, advance=1)

    def epoch(self, label: str, number: int, loss: float, accuracy: float) -> None:
        """Show the latest numbers beside the bar."""
        self._progress.update(self._task, status=f"{label}  {_status(number, loss, accuracy)}")


class LineWatcher:
    """Prints a line per epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def counted(self, batches: Batches) -> Batches:
        """Say nothing of steps."""
        return batches

    def epoch(self, label: str, number: int, loss: float, accuracy: float) -> None:
        """Print the numbers of the epoch."""
        say(self._console, f"{label}  {_status(number, loss, accuracy)}")


@contextmanager
def watching(console: Console, title: str, steps: int, status: str = "compiling") -> Iterator[Watcher]:
    """Show `steps` steps, of all trainings together, while the context is open."""
    if not console.is_terminal:
        yield LineWatcher(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=console) as progress:
        yield LiveWatcher(progress, progress.add_task(title, total=steps, status=status))


def _status(number: int, loss: float, accuracy: float) -> str:
    return f"epoch {number:>3}  loss {loss:.3f}  test {accuracy:.1%}"
