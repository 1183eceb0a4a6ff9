"""What all pictures share: their style, their colours, and how they mark an alarm."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by the colour-blind; vermillion is kept for alarms.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
ALARM = "#D55E00"
# Ours in blues, the paper's beside them, and the one that all know in black.
NAMED = {
    "salera_adamw": COLOURS[0],
    "salera_adamw, averaged": "#003F66",
    "salera": COLOURS[4],
    "alera": "#4D7EA8",
    "ag_adam": "#7A7FE0",
    "paper-salera": "#20A39E",
    "paper-alera": "#1F4E5F",
    "paper-ag_adam": "#B07CC6",
    "adam": COLOURS[5],
    "adamw": COLOURS[5],
}
OTHERS = (*COLOURS[1:4], "#8C564B", "#BCBD22", "#17BECF", "#7F7F7F")
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


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """The colour of each optimizer: the same in all pictures for those of `NAMED`."""
    others = itertools.cycle(OTHERS)
    return {name: NAMED.get(name) or next(others) for name in names}


def mark_alarms(axes: Sequence[Axes], places: npt.NDArray[Any]) -> None:
    """Draws a line through every axis at each of the places."""
    for axis in axes:
        for place in places:
            axis.axvline(place, color=ALARM, lw=ALARM_WIDTH, zorder=2.5)
