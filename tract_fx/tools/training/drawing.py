"""What pictures and files of results share.

Pictures are drawn on `Figure` objects directly, so that no global pyplot state of a calling program is touched.
"""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["PLAIN_LINE", "SWEEP_COLOURS", "TRACT_LINE", "new_figure"]

DPI = 150
# Blue and vermillion of Okabe and Ito's palette stay apart under every common colour blindness; the dashes also
# keep them apart in print. The dashes lie on top, so that both lines are seen where they meet.
PLAIN_LINE = {"color": "#0072B2", "linestyle": "--", "zorder": 3}
TRACT_LINE = {"color": "#D55E00", "linestyle": "-", "zorder": 2}
SWEEP_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""For further sides, from the same palette."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
