"""The pictures of a probe, drawn on `Figure` objects so that no pyplot state of a calling program is touched."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tract_fx.errors import ProbeError
from tract_fx.probing.result import LayerProbe, ProbeResult
from tract_fx.probing.views.tiles import Tiles, mosaic, tiles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["layer_figures", "save_figures"]

DPI = 150
# Okabe and Ito's palette, which stays apart under every common colour blindness.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.55"
MAX_FILTERS = 64
MAX_CURVES = 16
GROUPS_DRAWN = 16
# Eigenvalues this far below the largest one are rounding.
ROUNDING = 1e-16
# Sides of tiles, in inches.
TILE, LONGEST = 0.9, 3.6
# Between tiles and above those with a label, around all, and the least width of a picture, in inches.
GAP, LABEL, MARGIN, NARROWEST = 0.08, 0.2, 0.12, 5.0
# Of a tile, in dots.
SMALLEST_SIDE = 48


def save_figures(probe: ProbeResult, folder: Path) -> tuple[Path, ...]:
    """See :meth:`tract_fx.Probe.save_figures`."""
    try:
        import matplotlib  # noqa: F401 - says early, and once, that it is not there
    except ImportError as error:
        raise ProbeError("Pictures need matplotlib: pip install 'tract-fx[inspect]'.") from error
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for index, layer in enumerate(probe.layers):
        name = re.sub(r"[^\w.-]+", "_", layer.name) or "layer"
        if len(probe.layers) > 1:
            name = f"{index}_{name}"
        for what, figure in layer_figures(layer):
            written.append(folder / f"{name}_{what}.png")
            figure.savefig(written[-1])
    return tuple(written)


def layer_figures(layer: LayerProbe) -> Iterator[tuple[str, Figure]]:
    """The pictures of one layer that there is something to draw for, with what they show."""
    for what, draw in {"spectrum": _spectrum, "filters": _filters, "eigenvectors": _eigenvectors}.items():
        figure = draw(layer)
        if figure is not None:
            yield what, figure


def _spectrum(layer: LayerProbe) -> Figure | None:
    if not layer.eigenvalues.numel() or layer.eigenvalues.max() <= 0:
        return None
    figure = _figure(11, 4.6)
    figure.suptitle(f"{_title(layer)}: covariance of the inputs, and what lam makes of the gradient", fontsize=12)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_eigenvalues(left, layer)
    if layer.cosines:
        _draw_grid(right, layer)
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, "no usable gradient", ha="center", va="center", transform=right.transAxes)
    return figure


def _draw_eigenvalues(axes: Axes, layer: LayerProbe) -> None:
    eigenvalues = layer.scaled_eigenvalues
    floor = ROUNDING * eigenvalues.max().item()
    groups, count = eigenvalues.shape
    for group in eigenvalues[:GROUPS_DRAWN]:
        shown = group[group > floor]
        style = {"marker": "o", "markersize": 3} if count <= 64 and groups == 1 else {}
        axes.plot(range(1, len(shown) + 1), shown.tolist(), color=BLUE, linewidth=1.4, **style)
    axes.set_yscale("log")
    if count > 64:
        axes.set_xscale("log")
    low, high = axes.get_ylim()
    low, high = min(low, layer.lam / 6), 4 * max(high, layer.lam)  # room for words
    axes.set_ylim(low, high)
    for point in layer.grid:
        if low < point.lam < high and point.lam != layer.lam:
            axes.axhline(point.lam, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
    axes.axhline(layer.lam, color=ORANGE, linewidth=1.6, zorder=2)
    axes.axhspan(layer.lam, high, color=ORANGE, alpha=0.06, zorder=0)
    inside = {"color": ORANGE, "fontsize": 9, "textcoords": "offset points"}
    axes.annotate(
        "above lam: divided by the covariance", (0.98, 1), (0, -6), "axes fraction", ha="right", va="top", **inside
    )
    axes.annotate(f"lam = {layer.lam:g}", (0.02, layer.lam), (0, -4), axes.get_yaxis_transform(), va="top", **inside)
    which = f" of {groups} groups" if groups > 1 else ""
    which += f", the first {GROUPS_DRAWN} drawn" if groups > GROUPS_DRAWN else ""
    axes.set(
        title=f"eigenvalues{which} (dotted: other lam of the grid)",
        xlabel="number of the eigenvalue",
        ylabel="eigenvalue of $X^T X / r$" + (", times their mean" if layer.relative else ""),
    )
    axes.grid(alpha=0.25, axis="x")


def _draw_grid(axes: Axes, layer: LayerProbe) -> None:
    lams = [point.lam for point in layer.grid]
    lines = (
        ("cosine between TrAct's and the plain gradient", [point.cosine for point in layer.grid], BLUE, "o"),
        ("kept: |lam G'| / |G|", [point.kept for point in layer.grid], GREEN, "s"),
    )
    for label, values, colour, marker in lines:
        axes.plot(lams, values, color=colour, marker=marker, markersize=4, label=label)
    axes.axvline(layer.lam, color=ORANGE, linewidth=1.6, zorder=1, label=f"lam = {layer.lam:g}")
    axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="lam", title="the gradient at every lam of the grid")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, ncols=3, frameon=False, columnspacing=1.0)


def _filters(layer: LayerProbe) -> Figure | None:
    filters = layer.filters.flatten(0, 1).double()
    if not filters.numel():
        return None
    count = len(filters)
    tiles = tiles_of(filters[:MAX_FILTERS], layer.geometry, each=False)
    shown = min(count, MAX_CURVES if tiles is None else MAX_FILTERS)
    some = f", the first {shown}" if shown < count else ""
    noun = "filters" if count > 1 else "filter"
    title = f"{_title(layer)}: {count} {noun}{some}"
    if tiles is None:
        return _curves(title, filters[:shown], layer, None)
    return _mosaic(title, tiles, None)


def _eigenvectors(layer: LayerProbe) -> Figure | None:
    if not layer.eigenvectors.numel():
        return None
    vectors = layer.eigenvectors[0]
    # An eigenvector has no sign: it is shown with its largest entry positive.
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    values = [
        f"{value:.0f}" if value >= 100 else f"{value:.2g}" for value in layer.eigenvalues[0, : len(vectors)].tolist()
    ]
    group = f" of the first of {len(layer.eigenvalues)} groups" if len(layer.eigenvalues) > 1 else ""
    only = " of one batch" if layer.of_one_batch else ""
    title = f"{_title(layer)}: leading eigenvectors of the inputs' covariance{group}{only}"
    tiles = tiles_of(vectors, layer.geometry, each=True)
    if tiles is None:
        return _curves(title, vectors, layer, values)
    return _mosaic(title, tiles, values)


def _mosaic(title: str, tiles: Tiles, labels: list[str] | None) -> Figure:
    """All tiles in one picture: one panel for each would take matplotlib seconds to lay out."""
    pixels = tiles.pixels.repeat_interleave(enlarged := _enlargement(tiles), 1).repeat_interleave(enlarged, 2)
    count, height, width = pixels.shape[:3]
    # The shorter side is of a fixed length, as long as the longer one does not become too long.
    shorter = min(TILE, LONGEST * min(height, width) / max(height, width))
    dots = min(height, width) / shorter  # per inch
    columns = max(1, min(count, math.ceil(math.sqrt(count * height / width))))
    gap = round((2 * GAP if tiles.parts else GAP) * dots)
    above = round(LABEL * dots) if labels else 0
    canvas = mosaic(pixels, columns, gap, above)
    if tiles.in_colour:
        canvas = canvas.nan_to_num(1.0)
    tall, wide = (side / dots for side in canvas.shape[:2])

    note = "; ".join(filter(None, (tiles.explanation, "labelled with their eigenvalues" if labels else "")))
    figure_width = max(NARROWEST, wide + 2 * MARGIN)
    title, note = _wrapped(title, figure_width, 11), _wrapped(note, figure_width, 9)
    bottom = MARGIN + 0.16 * len(note.splitlines()) + (0.1 if note else 0)
    figure_height = bottom + tall + 0.12 + 0.19 * len(title.splitlines()) + MARGIN
    figure = _figure(figure_width, figure_height, layout=None)
    left = (figure_width - wide) / 2
    axes = figure.add_axes((left / figure_width, bottom / figure_height, wide / figure_width, tall / figure_height))
    axes.set_axis_off()
    style = {} if tiles.in_colour else {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    axes.imshow(canvas.numpy(), interpolation="nearest", aspect="auto", **style)
    for index, label in enumerate(labels or ()):
        row, column = divmod(index, columns)
        place = column * (width + gap) + width / 2, row * (height + gap + above) + 0.85 * above
        axes.text(*place, label, ha="center", va="bottom", fontsize=8)
    figure.text(0.5, 1 - MARGIN / figure_height, title, ha="center", va="top", fontsize=11)
    figure.text(0.5, MARGIN / figure_height, note, ha="center", va="bottom", fontsize=9)
    return figure


def _enlargement(tiles: Tiles) -> int:
    """So many dots for a pixel that gaps and labels come out at about their sizes."""
    return math.ceil(SMALLEST_SIDE / min(tiles.pixels.shape[1:3]))


def _curves(title: str, vectors: Tensor, layer: LayerProbe, labels: list[str] | None) -> Figure:
    """One small panel for each vector; for a one-dimensional convolution a line for each channel."""
    vectors = vectors[:MAX_CURVES].nan_to_num(0.0, 0.0, 0.0)
    columns = min(4, len(vectors))
    rows = math.ceil(len(vectors) / columns)
    width, height = max(6.0, 2.6 * columns), 1.5 * rows + 1.2
    title = _wrapped(title, width, 11)
    figure = _figure(width, height, layout=None)
    figure.text(0.5, 1 - MARGIN / height, title, ha="center", va="top", fontsize=11)
    # Placed by hand: to lay out so many panels takes matplotlib seconds.
    place = {"left": 0.55 / width, "right": 1 - 0.15 / width, "bottom": 0.55 / height, "wspace": 0.06}
    place |= {"top": 1 - (0.35 + 0.19 * len(title.splitlines())) / height, "hspace": 0.28 if labels else 0.12}
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True, gridspec_kw=place).ravel()
    channels = vectors.shape[1] // math.prod(layer.geometry.kernel_size)
    one_line = not layer.geometry.kernel_size or channels == 1
    for index, axes in enumerate(grid):
        if index >= len(vectors):
            axes.set_axis_off()
            continue
        axes.axhline(0, color=GREY, linewidth=0.6)
        if one_line:
            few = vectors.shape[1] <= 40
            axes.plot(vectors[index].tolist(), color=BLUE, linewidth=1.0, marker="." if few else None)
        else:
            taken = vectors[index].unflatten(0, (channels, -1))[:MAX_CURVES]
            axes.plot(taken.T.tolist(), linewidth=1.0)
        axes.tick_params(labelsize=7)
        if labels:
            axes.set_title(f"eigenvalue {labels[index]}", fontsize=8, pad=2)
    figure.text(0.5, MARGIN / height, _what_runs(layer, channels), ha="center", va="bottom", fontsize=9)
    return figure


def _what_runs(layer: LayerProbe, channels: int) -> str:
    if not layer.geometry.kernel_size:
        return "feature"
    return (
        "position in the kernel"
        if channels == 1
        else f"position in the kernel; one line for each of {channels} channels"
    )


def _figure(width: float, height: float, layout: str | None = "constrained") -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _title(layer: LayerProbe) -> str:
    return f"{layer.name} ({layer.description})"


def _wrapped(text: str, width: float, size: int) -> str:
    """Lines that fit into so many inches at a size in points."""
    return "\n".join(textwrap.wrap(text, max(20, int(width * 125 / size))))
