"""The picture of the faults: which guard survives which, and how soon it is well again."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from benchmarks.faults.guards import GUARDS
from benchmarks.faults.injection import FAULTS
from benchmarks.plots import STYLE

# Paler than the colours of lines, so that black can be read on them.
_MAP = LinearSegmentedColormap.from_list("survival", ["#EBA27A", "#FBF3EC", "#7FB5D8"])
_SMALL: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
_BREAKS = str.maketrans({" ": "\n", "_": "_", "(": "\n("})


def save_picture(medians: pd.DataFrame, path: Path) -> None:
    """Draws what `python -m benchmarks faults` has measured, and writes it as PNG.

    Args:
      medians: a row for every fault and guard, see `scores.summary`.
      path: of the picture.
    """
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.5 + len(GUARDS), 6.4), layout="constrained")
        axis = figure.subplots()
        share = medians["survived"] / medians["runs"]
        table = medians.assign(share=share).pivot(index="fault", columns="guard", values="share")
        table = table.loc[list(FAULTS), list(GUARDS)]
        shares = table.to_numpy(np.float64, copy=True)
        shares[0] = np.nan  # the control
        axis.imshow(shares, cmap=_MAP, vmin=0, vmax=1, aspect="auto")
        for cell in medians.to_dict("records"):
            _write(axis, cell)
        axis.set_xticks(range(len(GUARDS)), [name.translate(_BREAKS) for name in GUARDS])
        axis.set_yticks(range(len(FAULTS)), list(FAULTS))
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.set_xticks(np.arange(len(GUARDS) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(FAULTS) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="white", lw=2)
        axis.tick_params(which="minor", length=0)
        axis.spines[:].set_visible(False)
        figure.savefig(path)


def _write(axis: Axes, cell: dict[Any, Any]) -> None:
    """Writes how many runs survive, and below it when they are well again, or how bad it is."""
    place = list(GUARDS).index(cell["guard"]), list(FAULTS).index(cell["fault"])
    survived, runs = cell["survived"], cell["runs"]
    if place[1] == 0:
        alarms = GUARDS[cell["guard"]].alarm is not None
        count = f"{cell['all_alarms']:g}"
        axis.text(*place, f"false alarms: {count}" if alarms else "has no alarm", **_SMALL)
        return
    below = f"error {cell['error']:.0f} %"
    if np.isfinite(cell["recovery"]):
        below = f"{cell['recovery']:g} steps" if cell["recovery"] else "at once"
    axis.text(place[0], place[1] - 0.14, f"{survived} of {runs}", ha="center", va="center")
    axis.text(place[0], place[1] + 0.24, below, **_SMALL)
