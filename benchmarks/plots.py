"""What all pictures share: their style, their colours, and how they mark an alarm."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by the colour-blind; vermillion is kept for alarms.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
ALARM = "#D55E00"
ALARM_WIDTH = 0.9
STYLE: dict[Any, Any] = {
    "agg.path.chunksize": 10_000,  # without it, a line of 100,000 points can be too much for Agg
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "legend.borderaxespad": 0,
    "legend.frameon": False,
    "savefig.dpi": 130,
}


def palette(count: int) -> Sequence[Any]:
    """So many colours, told apart as well as may be."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    tableau = mpl.color_sequences["tab10"]
    if count <= len(tableau):
        return tableau[:count]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, count)))


def mark_alarms(axes: Sequence[Axes], places: npt.NDArray[Any]) -> None:
    """Draws a line through every axis at each of the places."""
    for axis in axes:
        for place in places:
            axis.axvline(place, color=ALARM, lw=ALARM_WIDTH, zorder=2.5)
