"""Live progress of one training; a line per epoch where there is no terminal to draw in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tract_fx.tools.demo.training import Epoch


class LiveWatcher:
    """Moves a progress bar."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=steps, status="compiling")

    def step(self) -> None:
        """Advance the bar by a step; the first one ends the compilation."""
        fields: dict[str, Any] = {}
        if self._progress.tasks[self._task].completed == 0:
            fields["status"] = "first epoch"
        self._progress.update(self._task, advance=1, **fields)

    def epoch(self, number: int, result: Epoch) -> None:
        """Show the latest numbers beside the bar."""
        self._progress.update(self._task, status=_status(number, result))


class LineWatcher:
    """Prints a line per epoch."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label

    def step(self) -> None:
        """Say nothing."""

    def epoch(self, number: int, result: Epoch) -> None:
        """Print the numbers of the epoch."""
        self._console.print(f"{self._label}  {_status(number, result)}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def watching(console: Console, label: str, steps: int) -> Iterator[LiveWatcher | LineWatcher]:
    """Show one training of `steps` steps while the context is open."""
    if not console.is_terminal:
        yield LineWatcher(console, label)
        return
    columns = (TextColumn("{task.description:<14}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=console) as progress:
        yield LiveWatcher(progress, label, steps)


def _status(number: int, result: Epoch) -> str:
    return f"epoch {number:>3}  loss {result.train_loss:.3f}  test {result.test_accuracy:.1%}"
