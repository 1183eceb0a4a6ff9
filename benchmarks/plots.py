"""The picture of a run, after the paper's Figure 1: errors, losses, learning rates, alarms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.log import Log

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart by the colour-blind; vermillion is kept for alarms.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
_ALARM = "#D55E00"
_ALARM_WIDTH = 0.9
_LEGEND: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
_STYLE: dict[Any, Any] = {
    "agg.path.chunksize": 10_000,  # without it, a line of 100,000 points can be too much for Agg
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "legend.borderaxespad": 0,
    "legend.frameon": False,
}


def save_picture(log: Log, path: Path) -> None:
    """Draws a run as three panels over the epochs, and writes them as PNG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 8), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(3, 1, sharex=True)
        epochs = np.array([line["step"] for line in log.steps]) / log.config["steps_per_epoch"]
        _draw_errors(axes[0], log)
        _draw_losses(axes[1], epochs, log)
        _draw_rates(axes[2], epochs, log)
        _mark_alarms(axes, epochs, log)
        axes[2].set_xlabel("epoch")
        axes[2].set_xlim(0, log.config["epochs"])
        axes[2].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(_title(log), fontsize=12)
        figure.align_ylabels(axes)
        figure.savefig(path, dpi=130)


def _title(log: Log) -> str:
    config = log.config
    return (
        f"{config['optimizer']} on {config['dataset']} ({config['model']}), "
        f"initial learning rate {config['hyperparameters']['learning_rate']:g}"
    )


def _draw_errors(axis: Axes, log: Log) -> None:
    errors = 100 * _floats([line["test_error"] for line in log.epochs])
    epochs = [line["epoch"] for line in log.epochs]
    label = f"after each epoch\n(last: {errors[-1]:.2f} %)"
    axis.plot(epochs, errors, "o-", color=_COLOURS[0], ms=4, clip_on=False, zorder=3, label=label)
    axis.set_ylabel("test error (%)")
    _scale(axis, errors)


def _draw_losses(axis: Axes, epochs: Floats, log: Log) -> None:
    losses = _floats([line["loss"] for line in log.steps])
    finite = np.isfinite(losses)
    positive = finite & (losses > 0)
    shown = np.where(positive, losses, np.nan)
    axis.plot(epochs, shown, color="#7DB8DC", lw=0.8, label="each minibatch")
    axis.plot(epochs, _smooth(shown), color=_COLOURS[0], lw=1.4, label="geometric mean")
    if not finite.all():
        lost = epochs[~finite]
        axis.plot(
            lost,
            np.full(lost.shape, 0.97),
            "x",
            color=_ALARM,
            ms=5,
            clip_on=False,
            transform=axis.get_xaxis_transform(),
            label="not finite",
        )
    axis.set_ylabel("minibatch loss")
    axis.legend(**_LEGEND)
    _scale(axis, losses[positive])


def _draw_rates(axis: Axes, epochs: Floats, log: Log) -> None:
    groups = list(log.steps[0]["learning_rate"])
    modules = list(dict.fromkeys(_module(group) for group in groups))
    colours = dict(zip(modules, _palette(len(modules)), strict=True))
    drawn = []
    for group in groups:
        rates = _floats([line["learning_rate"][group] for line in log.steps])
        drawn.append(np.where(rates > 0, rates, np.nan))
        axis.plot(
            epochs,
            drawn[-1],
            color=colours[_module(group)],
            ls="--" if group.endswith("/bias") else "-",
            lw=1.6,
            label="all layers" if group == "all" else group,
        )
    axis.set_ylabel("learning rate")
    axis.legend(
        **_LEGEND, ncols=1 + len(groups) // 13, fontsize="medium" if len(groups) < 13 else "small"
    )
    values = np.concatenate(drawn)
    _scale(axis, values[np.isfinite(values)], always_log=True)


def _mark_alarms(axes: Sequence[Axes], epochs: Floats, log: Log) -> None:
    alarms = epochs[np.array([line["alarm"] for line in log.steps], dtype=bool)]
    for axis in axes:
        for alarm in alarms:
            axis.axvline(alarm, color=_ALARM, lw=_ALARM_WIDTH, zorder=2.5)
    if alarms.size:
        label = f"{alarms.size:,} alarm{'s' if alarms.size > 1 else ''}"
        axes[0].plot([], [], color=_ALARM, lw=_ALARM_WIDTH, label=label)
    axes[0].legend(**_LEGEND)


def _module(group: str) -> str:
    """`Dense_0` for `Dense_0/kernel`: the parameters of a module share a colour."""
    return group.rpartition("/")[0] or group


def _palette(count: int) -> Sequence[Any]:
    if count <= len(_COLOURS):
        return _COLOURS[:count]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, count)))


def _smooth(values: Floats) -> Floats:
    """Geometric means over the steps around, about a hundredth of the run; NaN does not count."""
    width = 2 * (values.size // 200) + 1
    padded = np.pad(np.log(values), width // 2, mode="reflect")
    known = np.isfinite(padded)
    total = np.convolve(np.where(known, padded, 0), np.ones(width), mode="valid")
    count = np.convolve(known, np.ones(width), mode="valid")
    return np.where(count > 0, np.exp(total / np.maximum(count, 1)), np.nan)


def _scale(axis: Axes, values: Floats, always_log: bool = False) -> None:
    """A logarithmic scale where it is useful, with plain numbers on it where they are short."""
    if not values.size or values.min() <= 0:
        return
    ratio = values.max() / values.min()
    if ratio < 10 and not always_log:
        axis.set_ylim(bottom=0)
        return
    axis.set_yscale("log")
    if ratio < 1.001:  # one constant: without limits of its own the axis spans decades
        axis.set_ylim(values.min() / 3, values.max() * 3)
    if ratio < 1e4:
        narrow = 1.001 <= ratio < 10
        subs = (1, 2, 5) if ratio < 1e3 else (1,)
        axis.yaxis.set_major_locator(
            MaxNLocator(5, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=subs)
        )
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())


def _floats(values: Sequence[float | None]) -> Floats:
    """The values as an array, NaN for None."""
    return np.array(values, dtype=np.float64)
