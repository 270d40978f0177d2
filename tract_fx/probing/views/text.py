"""A probe in a terminal: the answer, then the advice, then the numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tract_fx.inspect.formatting import describe_lam, human, refusal
from tract_fx.probing.result import GridPoint, LayerProbe, ProbeResult, ValueSummary
from tract_fx.probing.vocabulary import Words, words_for
from tract_fx.records import Severity

__all__ = ["as_text", "report"]

WIDTH = 120
INDENT = (0, 0, 0, 2)
QUIET_STYLE, GOOD_STYLE, BAD_STYLE = "dim", "bold green", "bold yellow"
CHANNELS_LISTED = 4


def as_text(probe: ProbeResult) -> str:
    """Return the probe as text without colours."""
    written = io.StringIO()
    console = Console(file=written, width=WIDTH, color_system=None)
    console.print(Group(*report(probe)))
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def report(probe: ProbeResult) -> Iterator[RenderableType]:
    """Yield the renderables that rich prints."""
    for layer in probe.layers:
        yield Text(layer.verdict, style=BAD_STYLE if layer.warnings else GOOD_STYLE)
    for rejection in probe.rejections:
        if rejection.severity is not Severity.NOTE:
            yield Text(refusal(rejection), style=BAD_STYLE)
    for layer in probe.layers:
        yield Text()
        yield from _layer(layer, named=len(probe.layers) > 1)
    yield Text()
    batches = f"{probe.batches} batches" if probe.batches > 1 else "one batch"
    lam = describe_lam(probe.lam, probe.relative)
    yield Text(f"lam {lam}, {batches}; gradients are of {probe.loss}.", style=QUIET_STYLE)


def _layer(layer: LayerProbe, *, named: bool) -> Iterator[RenderableType]:
    for index, concern in enumerate(layer.warnings):
        # The verdict has said the first one already.
        sentence = "" if index == 0 and not named else f"{concern.sentence[0].upper()}{concern.sentence[1:]}. "
        yield Padding(Text.assemble((sentence, "bold"), concern.advice), INDENT)
    if layer.warnings:
        yield Text()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style=QUIET_STYLE)
    facts.add_column()
    for name, value in _facts(layer):
        facts.add_row(f"  {name}", Text(value))
    yield Text(f"{layer.name}: {layer.description}" if named else layer.description)
    yield facts
    if layer.cosines:
        yield Padding(_grid(layer), INDENT)


def _facts(layer: LayerProbe) -> Iterator[tuple[str, str]]:
    if layer.rows:
        each = f"each of {layer.passes} backward passes" if layer.passes > 1 else "the only backward pass"
        yield "rows", f"{_rows(layer.rows)} of {layer.features:,} features in {each}"
    if layer.values is not None:
        yield from _values(layer.values, words_for(layer.geometry))
    if layer.eigenvalues.numel():
        largest, smallest = layer.eigenvalues[:, 0].max().item(), layer.eigenvalues[:, -1].min().item()
        smallest = smallest if math.isfinite(layer.condition) else 0.0
        groups = f", {len(layer.eigenvalues)} groups" if len(layer.eigenvalues) > 1 else ""
        only = ", of one batch" if layer.of_one_batch else ""
        yield "eigenvalues", f"{_number(smallest)} to {_number(largest)}{groups}{only}"
        yield "condition", f"{_number(layer.condition)}, with lam {_number(layer.condition_with_lam)}"
        yield "effective rank", f"{layer.effective_rank:.1f} of {layer.features:,}"
        if layer.unit_of_lam:
            yield "unit of lam", layer.unit_of_lam
        yield "mean offset", f"{_percent(layer.mean_offset)} of the trace"
    if layer.cosines:
        spread = f", {min(layer.cosines):.3f} to {max(layer.cosines):.3f}" if len(layer.cosines) > 1 else ""
        yield "cosine", f"{layer.at_lam.cosine:.3f} between TrAct's gradient and the plain one{spread}"


def _values(values: ValueSummary, words: Words) -> Iterator[tuple[str, str]]:
    low, high, scale = values.minimum.min().item(), values.maximum.max().item(), values.overall_std
    if len(values.mean) <= CHANNELS_LISTED:
        mean, std = (", ".join(_short(item, scale) for item in tensor.tolist()) for tensor in (values.mean, values.std))
    else:
        mean, std = _short(values.mean.mean().item(), scale), _short(scale)
    yield "inputs", f"{_short(low)} to {_short(high)}; mean {mean}; standard deviation {std}"
    contrast = "none" if values.contrast is None else f"{values.contrast:.2g} within one"
    noun = words.samples
    near = f"; {_percent(values.near_constant)} nearly constant" if values.near_constant else ""
    yield noun, f"{values.samples:,}; standard deviation {contrast}{near}"


def _grid(layer: LayerProbe) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("lam / (tr(C)/n)" if layer.relative else "lam", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("|lam G'| / |G|", justify="right")
    table.add_column("of |G|² above lam", justify="right")
    table.add_column("directions above lam", justify="right")
    for point in layer.grid:
        table.add_row(*_point(point, layer.features), style="bold" if point.lam == layer.lam else None)
    return table


def _point(point: GridPoint, features: int) -> tuple[str, ...]:
    directions = f"{point.degrees_of_freedom:.1f} of {features}"
    # The layer has a gradient; without one there is no such table.
    assert point.cosine is not None
    assert point.kept is not None
    assert point.reshaped is not None
    return f"{point.lam:g}", f"{point.cosine:.3f}", _percent(point.kept), _percent(point.reshaped), directions


def _rows(rows: tuple[int, ...]) -> str:
    return human(rows[0]) if min(rows) == max(rows) else f"{human(min(rows))} to {human(max(rows))}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "infinite"
    if value >= 1e4:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 1e3 else f"{value:.3g}"


def _short(value: float, scale: float = 0.0) -> str:
    """Two or three digits; what is nothing beside ``scale`` is 0."""
    if abs(value) < 1e-3 * scale:
        return "0"
    return f"{value:.2f}" if 0.005 <= abs(value) < 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    if share == 0 or share >= 0.0995:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2g} %" if share >= 1e-5 else "<0.001 %"
