"""A probe as one self-contained HTML page in the style of that of ``explain``: it loads nothing and runs no scripts."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tract_fx.inspect.formatting import refusal
from tract_fx.inspect.views.html import asset, template
from tract_fx.probing.result import Concern, LayerProbe, ProbeResult
from tract_fx.probing.views.figures import layer_figures
from tract_fx.probing.views.text import columns_of, facts, grid_rows, heads_of, summary
from tract_fx.records import Severity

__all__ = ["render_html"]

PACKAGE = "tract_fx.probing.views"


def render_html(probe: ProbeResult) -> str:
    """A complete HTML document, with pictures where matplotlib is installed."""
    style, own_style = asset("tract_fx.inspect.views", "page.css"), asset(PACKAGE, "probe.css")
    return template(PACKAGE, "probe.html").render(page=_Page(probe), style=style, own_style=own_style)


@dataclasses.dataclass(frozen=True)
class _Picture:
    data: str
    text: str


@dataclasses.dataclass(frozen=True)
class _Row:
    cells: tuple[str, ...]
    chosen: bool


class _Layer:
    def __init__(self, layer: LayerProbe) -> None:
        self.layer, self.name, self.description = layer, layer.name, layer.description
        self.warnings: tuple[Concern, ...] = layer.warnings
        self.facts = list(facts(layer))
        self.heads, self.columns = heads_of(layer), columns_of(layer)
        self.table = [_Row(cells, chosen) for cells, chosen in grid_rows(layer)] if layer.cosines else []

    @property
    def pictures(self) -> list[_Picture]:
        if find_spec("matplotlib") is None:
            return []
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for what, figure in layer_figures(self.layer):
                path = Path(folder) / f"{what}.png"
                figure.savefig(path)
                data = base64.b64encode(path.read_bytes()).decode()
                found.append(_Picture(data, f"{what} of {self.name}"))
        return found


class _Page:
    """What the template shows."""

    def __init__(self, probe: ProbeResult) -> None:
        self.verdict = probe.verdict.splitlines()
        self.is_unusual = bool(probe.warnings)
        self.title = f"probe: {self.verdict[0]}"
        self.layers = [_Layer(layer) for layer in probe.layers]
        self.refusals = [refusal(item) for item in probe.rejections if item.severity is not Severity.NOTE]
        self.summary = list(summary(probe))
