"""The pictures of the report, each from results that are on disk."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from benchmarks.grid.divisor import DIVISORS, best_divisor, corrected_cost, dividing_cost
from benchmarks.log import Log, alarms_of, losses_of
from benchmarks.plots import (
    ALARM,
    ALARM_WIDTH,
    COLOURS,
    NAMED,
    STYLE,
    colours_of,
    mark_alarms,
)

_CHANCE = 90  # % wrong when guessing one of ten classes
_COLUMNS = 4  # of panels in a figure


def save_robustness(runs: pd.DataFrame, path: Path) -> None:
    """Draws the test error against the initial learning rate, a panel for each rival of ours.

    Ours is `salera_adamw`, or `paper-salera` where it has not run. The line is the median over the
    seeds, the points are the seeds.
    """
    names = list(runs["optimizer"].unique())
    ours = "salera_adamw" if "salera_adamw" in names else "paper-salera"
    rivals = [name for name in names if name != ours]
    rows = -(-len(rivals) // _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.1 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(rivals) :]:
            axis.set_axis_off()
        for axis, rival in zip(axes.flat, sorted(rivals), strict=False):
            colour = NAMED.get(rival, COLOURS[1])
            _draw_curve(axis, runs[runs["optimizer"] == rival], colour)
            _draw_curve(axis, runs[runs["optimizer"] == ours], NAMED[ours])
            axis.axhline(_CHANCE, color="grey", lw=0.8, ls=":")
            axis.set_title(rival, color=colour, fontsize=10, loc="left")
            axis.set_xscale("log")
            _error_axis(axis)
        for axis in axes.flat[max(len(rivals) - _COLUMNS, 0) : len(rivals)]:
            axis.tick_params(labelbottom=True)  # the lowest of each column
        figure.supxlabel("initial learning rate")
        figure.supylabel("test error (%)")
        figure.suptitle(f"{ours} (in every panel) and the others", color=NAMED[ours], fontsize=11)
        figure.savefig(path)


def _draw_curve(axis: Axes, runs: pd.DataFrame, colour: str) -> None:
    errors = np.where(runs["failed"], np.maximum(runs["error"], _CHANCE), runs["error"])
    median = pd.Series(errors, runs["learning_rate"]).groupby(level=0).median()
    axis.plot(median.index, median, color=colour, lw=1.8)
    axis.plot(runs["learning_rate"], errors, "o", color=colour, ms=2.5, alpha=0.6)


def _error_axis(axis: Axes) -> None:
    axis.set_yscale("log")
    ticks = [2, 5, 10, 20, 50, 90]
    axis.set_yticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def save_catastrophe(logs: Sequence[Log], path: Path) -> None:
    """Draws runs over the same minibatches (Figure 1 of the paper): loss and learning rate.

    Alarms are marked in the colour of plots.py; losses that are not finite end a line.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 5.5), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(2, 1, sharex=True)
        colours = colours_of([log.config["optimizer"] for log in logs])
        for log, colour in zip(logs, colours.values(), strict=True):
            steps = [line["step"] for line in log.steps]
            axes[0].plot(steps, losses_of(log), color=colour, lw=1.3)
            rates = [max(line["learning_rate"].values()) for line in log.steps]
            axes[1].plot(steps, rates, color=colour, lw=1.6, label=log.config["optimizer"])
            mark_alarms(axes, alarms_of(log))
        axes[1].plot([], [], color=ALARM, lw=ALARM_WIDTH, label="alarm")
        axes[0].set_ylabel("minibatch loss")
        axes[1].set_ylabel("learning rate\n(largest of the layers)")
        for axis in axes:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
        axes[1].set_xlabel("step")
        axes[1].set_xlim(1, len(logs[0].steps))
        axes[1].legend()
        figure.savefig(path)


def save_curves(curves: dict[str, dict[str, Sequence[float]]], path: Path) -> None:
    """Draws test error by epoch, a panel for each problem and a line for each optimizer.

    Args:
      curves: by problem and optimizer, the test error in % after each epoch.
      path: of the PNG.
    """
    names = sorted({name for lines in curves.values() for name in lines})
    colours = colours_of(names)
    columns = min(len(curves), 2)
    rows = -(-len(curves) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5 * columns + 1.5, 3.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(curves) :]:
            axis.set_axis_off()
        for axis, (problem, lines) in zip(axes.flat, curves.items(), strict=False):
            for name, errors in lines.items():
                epochs = range(1, len(errors) + 1)
                axis.plot(epochs, errors, color=colours[name], lw=1.6)
            axis.set_title(problem, fontsize=10, loc="left")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        for name, colour in colours.items():
            axes.flat[0].plot([], [], color=colour, lw=1.6, label=name)
        figure.legend(loc="outside right upper", frameon=False)
        figure.supylabel("test error (%)")
        figure.savefig(path)


def save_figure_2(runs: pd.DataFrame, path: Path) -> None:
    """Draws test error, test loss and minibatch error by epoch (Figure 2 of the paper).

    Args:
      runs: one of each optimizer, those of `of_figure_2`.
      path: of the PNG.
    """
    colours = colours_of(runs["optimizer"])
    panels = {
        "errors": "test error (%)",
        "test_losses": "test loss",
        "train_errors": "minibatch error (%)",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, len(panels))
        for axis, (column, label) in zip(axes, panels.items(), strict=True):
            for name, values in zip(runs["optimizer"], runs[column], strict=True):
                axis.plot(
                    range(1, len(values) + 1), values, color=colours[name], lw=1.6, label=name
                )
            axis.set_title(label, fontsize=10, loc="left")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].legend()
        figure.savefig(path)


def save_dividing_cost(measured: pd.DataFrame, path: Path) -> None:
    """Draws J(zeta) for several costs of an alarm with its minima, and beside it what was measured.

    Args:
      measured: runs with `divisor` and `error`; may be empty.
      path: of the PNG.
    """
    divisors = np.geomspace(*DIVISORS, 200)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, 1 + (len(measured) > 0), squeeze=False)[0]
        for alarm_cost, colour in zip((0.001, 0.01, 0.05, 0.1), COLOURS, strict=False):
            for cost, style in ((dividing_cost, "-"), (corrected_cost, "--")):
                least = best_divisor(cost, alarm_cost)
                label = f"C = {alarm_cost:g}: least at {least:.2f}" if style == "-" else None
                axes[0].plot(
                    divisors, cost(divisors, alarm_cost), color=colour, ls=style, label=label
                )
                axes[0].plot([least], [cost(least, alarm_cost)], "o", color=colour, ms=5)
        axes[0].plot([], [], color="grey", ls="--", label="corrected")
        axes[0].set_ylabel(r"cost $J(\zeta)$")
        axes[0].set_ylim(0, 0.8)
        axes[0].legend(ncols=2, loc="upper right")
        if len(measured):
            groups = measured.groupby("divisor")["error"]
            axes[1].plot(measured["divisor"], measured["error"], "o", color="#7DB8DC", ms=3)
            axes[1].plot(groups.median().index, groups.median(), color=COLOURS[0], label="median")
            axes[1].set_ylabel("test error (%)")
            _error_axis(axes[1])
            axes[1].legend()
        for axis in axes:
            axis.set_xlabel(r"an alarm divides every rate by $\zeta$")
        figure.savefig(path)
