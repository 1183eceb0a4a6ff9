"""The picture: a panel for each task, the result by the initial rate."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.plots import COLOURS, STYLE
from benchmarks.tasks.contenders import CONTENDERS, OURS
from benchmarks.tasks.suite import TASKS
from benchmarks.tasks.tables import number

_COLUMNS = 4
_EMPHASIS = {  # the flagship, and what all know
    "salera_adamw": "#0072B2",
    "adamw": "#000000",
}
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
    for name in names:
        curve = curves[curves["optimizer"] == name].sort_values("learning_rate")
        shown = np.minimum(curve["value"], high)
        emphasised = name in _EMPHASIS
        axis.plot(
            curve["learning_rate"] / CONTENDERS[name].rate,
            shown,
            marker=_MARKERS[names.index(name) % len(_MARKERS)],
            color=_colour(name, names),
            lw=2.6 if name == OURS[0] else 1.8 if emphasised else 0.9,
            ms=5 if emphasised else 3,
            alpha=1 if emphasised or name in OURS else 0.75,
            zorder=4 if emphasised else 3 if name in OURS else 2,
            label=name,
            clip_on=False,
        )
    axis.axvline(1, color="grey", lw=0.8, ls=":", zorder=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(low / 1.1, high)
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


def _colour(name: str, names: list[str]) -> str:
    if name in _EMPHASIS:
        return _EMPHASIS[name]
    rivals = [other for other in names if other not in _EMPHASIS]
    tableau = [*COLOURS[1:5], *mpl.color_sequences["tab10"], *mpl.color_sequences["Dark2"]]
    return str(mpl.colors.to_hex(tableau[rivals.index(name) % len(tableau)]))
