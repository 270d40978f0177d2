"""The demo's pictures: learning curves, and the first layer's filters before and after."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tract_fx.probing.views.tiles import mosaic
from tract_fx.tools.demo.pair import Pair
from tract_fx.tools.training.drawing import PLAIN_LINE, TRACT_LINE, new_figure
from tract_fx.tools.training.sides import PLAIN, TRACT

LINES = {PLAIN: PLAIN_LINE, TRACT: TRACT_LINE}
LOG_FROM = 10
"""Ratio of the largest to the smallest training loss from which their axis is logarithmic."""
MAX_FILTERS = 64
RGB_SHARE = 0.99
"""Share of the weights that RGB pictures show without clipping."""
MIN_TILE = 18
"""Side in dots a filter is enlarged to, so that the gaps between filters can be finer than their pixels."""


def draw_curves(pairs: Mapping[str, Pair], title: str, path: Path) -> None:
    """Write test accuracy and training loss against the epoch, one row of panels per network.

    Args:
        pairs: runs by the network's title.
        title: heading of the picture.
        path: PNG file to write.
    """
    figure = new_figure(10, 0.6 + 3.4 * len(pairs))
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for (accuracy, loss), (name, pair) in zip(grid, pairs.items(), strict=True):
        for side, run in pair.runs.items():
            numbers = range(1, len(run.epochs) + 1)
            style = {"label": side, "marker": "o", "markersize": 3, **LINES[side]}
            accuracy.plot(numbers, [100 * epoch.test_accuracy for epoch in run.epochs], **style)
            loss.plot(numbers, [epoch.train_loss for epoch in run.epochs], **style)
        _label(accuracy, f"{name}: test accuracy", "classified right, %", "lower right")
        unit = "cross-entropy, nats"
        if _spans_decades(pair):
            loss.set_yscale("log")
            unit += " (log scale)"
        _label(loss, f"{name}: training loss", unit, "upper right")
    figure.savefig(path)


def _label(axes: Axes, title: str, unit: str, corner: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc=corner)


def _spans_decades(pair: Pair) -> bool:
    """Whether a linear axis would flatten the end of the loss curves."""
    losses = [epoch.train_loss for run in pair.runs.values() for epoch in run.epochs]
    positive = [loss for loss in losses if loss > 0 and math.isfinite(loss)]
    return bool(positive) and max(positive) >= LOG_FROM * min(positive)


def draw_filters(name: str, pair: Pair, path: Path) -> None:
    """Write the first-layer filters at initialisation, after plain and after TrAct training, side by side.

    Args:
        name: title of the network.
        pair: its runs; filters are `(filters, channels, height, width)`. Three channels are shown as RGB around
            mid-gray, any other number as the mean over the channels on a diverging map.
        path: PNG file to write.
    """
    panels = {"at initialisation": pair.initial_filters}
    panels |= {f"after {side} training": run.filters for side, run in pair.runs.items()}
    in_colour = pair.initial_filters.shape[1] == 3
    figure = new_figure(12 if in_colour else 13, 5)
    figure.get_layout_engine().set(wspace=0.08, w_pad=0.15, h_pad=0.1)
    figure.suptitle(f"{name}: {_filter_count(pair.initial_filters)}", fontsize=12)
    scales = {title: _scale(filters, in_colour) for title, filters in panels.items()}
    if not in_colour:
        scales = dict.fromkeys(panels, max(scales.values()))
    for axes, (title, filters) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        limits = {"vmin": -scales[title], "vmax": scales[title]}
        picture = _mosaic(filters[:MAX_FILTERS], scales[title])
        image = axes.imshow(picture, cmap="RdBu_r", interpolation="nearest", **limits)
        key = f"\nblack and white at ±{scales[title]:.2g}" if in_colour else ""
        axes.set_title(title + key, fontsize=10)
        axes.set_axis_off()
    if not in_colour:
        figure.colorbar(image, ax=figure.axes, label="weight", shrink=0.8)
    # A colour bar shared by all panels leaves the layout engine no margin beside the first of them.
    figure.savefig(path, bbox_inches="tight", pad_inches=0.2)


def _filter_count(filters: Tensor) -> str:
    count, _, height, width = filters.shape
    shown = f", the first {MAX_FILTERS} of them" if count > MAX_FILTERS else ""
    return f"{count} first-layer filters of {height}x{width} pixels{shown}"


def _scale(filters: Tensor, in_colour: bool) -> float:
    """Weight at the end of the colour range.

    RGB panels have a range each, because their sizes differ, and leave out the largest weights, which would turn all
    others gray; other panels share one range that holds every weight. Weights of a diverged run do not count.
    """
    shown = filters[:MAX_FILTERS] if in_colour else filters[:MAX_FILTERS].mean(dim=1)
    sizes = shown[shown.isfinite()].abs()
    return (sizes.numel() and sizes.quantile(RGB_SHARE if in_colour else 1.0).item()) or 1.0


def _mosaic(filters: Tensor, scale: float) -> np.ndarray:
    """Filters in a near-square grid with a gap between them.

    Returns:
        RGB `(height, width, 3)` in [0, 1] for three channels, where `-scale` is black and `scale` is white; else
        weights `(height, width)`. Gaps are NaN, which is drawn transparent, or white for RGB.
    """
    in_colour = filters.shape[1] == 3
    if in_colour:
        tiles = (0.5 + filters.permute(0, 2, 3, 1) / (2 * scale)).nan_to_num(1.0).clamp(0, 1)
    else:
        tiles = filters.mean(dim=1)
    enlarged = math.ceil(MIN_TILE / tiles.shape[1])
    tiles = tiles.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2)
    canvas = mosaic(tiles, columns=math.ceil(math.sqrt(len(tiles))), gap=tiles.shape[1] // 6)
    return (canvas.nan_to_num(1.0) if in_colour else canvas).numpy()
