"""The picture: the steps of all optimizers, and how those of a few scale."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cost.tables import scaling_table
from benchmarks.plots import COLOURS, NAMED, STYLE, colours_of

_STAYS_OUT = "#888888"  # what is there for comparison


def save_picture(result: dict[str, Any], path: Path) -> None:
    """Draws the steps, and their scaling over parameters and leaves, and writes them as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        axes = figure.subplot_mosaic([["steps", "steps", "steps"], ["sizes", "leaves", "compile"]])
        _draw_steps(axes["steps"], pd.DataFrame(result["optimizers"]))
        for name, rows, value, label in (
            ("sizes", "sizes", "step_ratio", "parameters"),
            ("leaves", "leaves", "step_ratio", "leaves of 100 parameters"),
            ("compile", "leaves", "compile_seconds", "leaves of 100 parameters"),
        ):
            _draw_scaling(axes[name], scaling_table(result[rows], value), label)
        for name in ("sizes", "leaves"):
            axes[name].set(ylabel="step / Adam's step", ylim=(0, None))
        axes["compile"].set_ylabel("tracing and compilation (s)")
        axes["compile"].set_yscale("log")
        handles, labels = axes["sizes"].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(f"What a training step costs ({result['device']})", fontsize=12)
        figure.savefig(path, dpi=130)


def _draw_steps(axis: Axes, rows: pd.DataFrame) -> None:
    ours = rows["optimizer"].str.contains("alera|ag_adam|page_hinkley")
    colours = [
        NAMED.get(name, COLOURS[0]) if our else _STAYS_OUT
        for name, our in zip(rows["optimizer"], ours, strict=True)
    ]
    bars = axis.barh(rows["optimizer"], rows["step_ratio"], color=colours)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.axvline(1, color="black", lw=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("whole training step / Adam's step (grey: for comparison)")
    axis.grid(axis="y", visible=False)


def _draw_scaling(axis: Axes, table: pd.DataFrame, label: str) -> None:
    colours = colours_of(list(table.index))
    for name, values in table.iterrows():
        axis.plot(table.columns, values, "o-", ms=4, lw=1.6, color=colours[str(name)], label=name)
    axis.set_xscale("log")
    axis.set_xlabel(label)
