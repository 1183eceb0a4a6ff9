"""The picture: a panel for each task, the result by the initial rate."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.plots import COLOURS, NAMED, STYLE
from benchmarks.tasks.contenders import CONTENDERS
from benchmarks.tasks.suite import TASKS
from benchmarks.tasks.tables import number

_COLUMNS = 4
_WIDTHS = {
    "salera_adamw": 2.8,
    "salera_adamw, averaged": 1.6,
    "salera": 1.6,
    "ag_adam": 1.6,
    "adamw": 1.8,
}
_EMPHASIS = {name: (NAMED[name], width) for name, width in _WIDTHS.items()}
_RIVALS = [name for name in CONTENDERS if name not in _EMPHASIS]
_MARKERS = "osv^D<>pPX*hd"


def save_picture(curves: pd.DataFrame, path: Path) -> None:
    """Draws the means over the seeds; what failed or is far above the panel lies on its rim."""
    tasks = [name for name in TASKS if (curves["task"] == name).any()]
    names = [name for name in CONTENDERS if (curves["optimizer"] == name).any()]
    rows = -(-len(tasks) // _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.8, 2.9 * rows + 1.2), layout="constrained")
        axes = figure.subplots(rows, _COLUMNS, squeeze=False)
        for axis in axes.flat[len(tasks) :]:
            axis.set_axis_off()
        for axis, task in zip(axes.flat, tasks, strict=False):
            _draw(axis, curves[curves["task"] == task], task, names)
        for axis in axes.flat[max(len(tasks) - _COLUMNS, 0) : len(tasks)]:
            axis.set_xlabel("initial rate / default")  # the lowest of each column
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
        figure.suptitle("Result on the test part by initial rate, lower is better", fontsize=12)
        figure.savefig(path)


def _draw(axis: Axes, curves: pd.DataFrame, task: str, names: list[str]) -> None:
    """A line for each optimizer, ours over the others."""
    finite = curves["value"][np.isfinite(curves["value"])]
    low, high = finite.min(), _ceiling(curves)
    margin = (high / low) ** 0.04
    for name in names:
        curve = curves[curves["optimizer"] == name].sort_values("learning_rate")
        shown = np.minimum(curve["value"], high)
        colour, width = _EMPHASIS.get(name, (_colour(name), 0.8))
        axis.plot(
            curve["learning_rate"] / CONTENDERS[name].rate,
            shown,
            marker=_MARKERS[list(CONTENDERS).index(name) % len(_MARKERS)],
            color=colour,
            lw=width,
            ms=2 + width,
            alpha=1 if name in _EMPHASIS else 0.75,
            zorder=2 + width,
            label=name,
        )
    axis.axvline(1, color="grey", lw=0.8, ls=":", zorder=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(low / margin, high * margin)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(LogLocator(numticks=6))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title(f"{task} ({TASKS[task].split})", fontsize=10, loc="left")
    axis.set_ylabel(TASKS[task].unit, fontsize=9)


def _ceiling(curves: pd.DataFrame) -> float:
    """The top of a panel: the worst that a run at the smallest rate of an optimizer ends with.

    A run that explodes may end at any height, and would hide the differences of the others.
    """
    smallest = curves.sort_values("learning_rate").groupby("optimizer")["value"].first()
    return float(1.1 * smallest[np.isfinite(smallest)].max())


def _colour(name: str) -> Any:
    """A muted colour for a rival."""
    tableau = [*COLOURS[1:4:2], *mpl.color_sequences["tab10"][1:], *mpl.color_sequences["Dark2"]]
    return tableau[_RIVALS.index(name) % len(tableau)] if name in _RIVALS else None
