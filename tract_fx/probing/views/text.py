"""A probe in a terminal: the answer, then the advice, then the numbers."""

from __future__ import annotations

import io
import math
import statistics
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

__all__ = ["as_text", "columns_of", "facts", "grid_rows", "heads_of", "report", "summary"]

WIDTH = 120
INDENT = (0, 0, 0, 2)
QUIET_STYLE, GOOD_STYLE, BAD_STYLE = "dim", "bold green", "bold yellow"
CHANNELS_LISTED = 4
# A norm of all gradients that changes by less than this leaves a threshold for clipping as it is.
SAME_NORM = 1.25

# The columns of the table, with what they mean; the last two take two batches.
COLUMNS = (
    ("cosine", "between TrAct's gradient G' and the plain one G; 1 where TrAct changes only the length."),
    ("|lam G'| / |G|", "what is left of G; 100 % where lam is far above all eigenvalues, little where TrAct damps."),
    ("of |G|² above lam", "share of G along directions with an eigenvalue above lam, which TrAct divides by it."),
    ("directions above lam", "sum of s / (s + lam) over the eigenvalues s; those below lam keep their gradient."),
    ("own batch", "cosine between what a step along G' does to the pre-activations and what their gradient asks for."),
    (
        "next batch",
        "the same on another batch. Far below that of the plain gradient, with the own near 1, TrAct learns noise.",
    ),
)


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
    for line in summary(probe):
        yield Text(line, style=QUIET_STYLE)


def _layer(layer: LayerProbe, *, named: bool) -> Iterator[RenderableType]:
    for index, concern in enumerate(layer.warnings):
        # The verdict has said the first one already.
        sentence = "" if index == 0 and not named else f"{concern.sentence[0].upper()}{concern.sentence[1:]}. "
        yield Padding(Text.assemble((sentence, "bold"), concern.advice), INDENT)
    if layer.warnings:
        yield Text()
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET_STYLE)
    table.add_column()
    for name, value in facts(layer):
        table.add_row(f"  {name}", Text(value))
    yield Text(f"{layer.name}: {layer.description}" if named else layer.description)
    yield table
    if layer.cosines:
        yield Padding(_grid(layer), INDENT)
        for name, sentence in columns_of(layer):
            yield Padding(Text.assemble((f"{name}: ", "bold"), (sentence, QUIET_STYLE)), INDENT)


def facts(layer: LayerProbe) -> Iterator[tuple[str, str]]:
    """What was measured of a layer, with its names."""
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
    for name in heads_of(layer):
        table.add_column(name, justify="right")
    for cells, chosen in grid_rows(layer):
        table.add_row(*cells, style="bold" if chosen else None)
    return table


def columns_of(layer: LayerProbe) -> tuple[tuple[str, str], ...]:
    """Names and meanings of the columns of the table of every ``lam``, but for the first."""
    return COLUMNS if layer.at_lam.other is not None else COLUMNS[:4]


def heads_of(layer: LayerProbe) -> tuple[str, ...]:
    """The heads of all columns of that table."""
    return ("lam / (tr(C)/n)" if layer.relative else "lam", *(name for name, _ in columns_of(layer)))


def grid_rows(layer: LayerProbe) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Its rows, each with whether it is that of the ``lam`` that was asked for; the layer has a gradient."""
    compared = layer.at_lam.other is not None
    for point in layer.grid:
        yield _point(point, layer.features, compared), point.lam == layer.lam
    if compared:
        yield ("plain", *5 * [""], _cosine(statistics.fmean(plain for _, plain in layer.others))), False


def _point(point: GridPoint, features: int, compared: bool) -> tuple[str, ...]:
    # The layer has a gradient; without one there is no such table.
    assert point.cosine is not None
    assert point.kept is not None
    assert point.reshaped is not None
    directions = f"{point.degrees_of_freedom:.1f} of {features}"
    fits = (_cosine(point.own), _cosine(point.other)) if compared else ()
    shares = _percent(point.kept), _percent(point.reshaped)
    return f"{point.lam:g}", f"{point.cosine:.3f}", *shares, directions, *fits


def _cosine(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{round(value, 4) + 0.0:.4f}"  # no "-0.0000"


def summary(probe: ProbeResult) -> Iterator[str]:
    """What holds for all layers: what the new gradient means for clipping and for learning rates, and what was done."""
    if any(layer.norms for layer in probe.layers):
        yield from _norms(probe)
    batches = f"{probe.batches} batches" if probe.batches > 1 else "one batch"
    yield f"lam {describe_lam(probe.lam, probe.relative)}, {batches}; gradients are of {probe.loss}."


def _norms(probe: ProbeResult) -> Iterator[str]:
    """A line of numbers and one of advice."""
    layers = [layer for layer in probe.layers if layer.norms]
    each = ", ".join(
        f"of {layer.name} {_number(statistics.fmean(layer.norms))} to {_number(statistics.fmean(layer.new_norms))}"
        for layer in layers
    )
    whole = probe.norm_of_all
    total = "" if whole is None else f"; of all parameters together {_number(whole[0])} to {_number(whole[1])}"
    yield f"Norm of the gradient, plain to TrAct: {each}{total}."
    yield _norm_advice(None if whole is None or not whole[0] else whole[1] / whole[0])


def _norm_advice(factor: float | None) -> str:
    rates = (
        "SGD's steps of the layer change as its norm does (try its learning rate again if training is unstable), Adam's do "
        "not."
    )
    if factor is not None and not 1 / SAME_NORM < factor < SAME_NORM:
        what = (
            f"{factor:.2g} times what it saw, and clips more" if factor > 1 else f"{factor:.2g} of it, and clips less"
        )
        return f"A threshold for clipping by the norm of all gradients now sees {what}: set it again. {rates}"
    return rates


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
