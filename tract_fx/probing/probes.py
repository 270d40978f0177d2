"""The public class of a probe: its data with the methods that render them."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult

from tract_fx.probing.result import Concern, ConcernKind, GridPoint, LayerProbe, ProbeResult, ValueSummary
from tract_fx.probing.views.figures import save_figures
from tract_fx.probing.views.page import render_html
from tract_fx.probing.views.text import as_text, report

__all__ = ["Concern", "ConcernKind", "GridPoint", "LayerProbe", "Probe", "ValueSummary"]


class Probe(ProbeResult):
    """The result of ``tract_fx.probe``: ``print`` it, draw it with :meth:`save_figures`, or write a page."""

    def save_figures(self, folder: str | Path) -> tuple[Path, ...]:
        """Write pictures of each layer: its spectrum with ``lam`` marked, its filters, leading eigenvectors of its rows.

        Args:
            folder: directory of the pictures, created if it does not exist.

        Returns:
            The PNG files.

        Raises:
            ProbeError: when matplotlib is not installed.
        """
        return save_figures(self, Path(folder))

    def to_html(self, path: str | Path) -> Path:
        """Write a self-contained HTML page, with the pictures where matplotlib is installed.

        Args:
            path: of the file, which is overwritten if it exists.

        Returns:
            ``path``.
        """
        path = Path(path)
        path.write_text(render_html(self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from report(self)
