"""The pictures: of one run, after the paper's Figure 1, and of several runs together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.log import Log, alarms_of, losses_of
from benchmarks.plots import ALARM, ALARM_WIDTH, COLOURS, STYLE, colours_of, mark_alarms, palette

Floats = npt.NDArray[np.float64]

_LEGEND: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}


def save_picture(log: Log, path: Path) -> None:
    """Draws a run as three panels over the epochs, and writes them as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 8), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(3, 1, sharex=True)
        epochs = _epochs(log)
        _draw_errors(axes[0], log)
        _draw_losses(axes[1], epochs, log)
        _draw_rates(axes[2], epochs, log)
        mark_alarms(axes, _alarm_epochs(log))
        if alarms_of(log).size:
            axes[0].plot([], [], color=ALARM, lw=ALARM_WIDTH, label=_alarm_count(log))
        axes[0].legend(**_LEGEND)
        _finish(figure, axes, [log], path)


def save_comparison(logs: Sequence[Log], path: Path) -> None:
    """Draws several runs over one another, and their alarms in rows below, and writes them as PNG.

    The panel of the losses ends a thousand times above the first ones: explosions leave it.
    """
    rows = len(logs)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 6 + 0.3 * rows), layout="constrained")
        axes: Sequence[Axes] = figure.subplots(3, 1, sharex=True, height_ratios=(10, 10, 1 + rows))
        for log, colour in zip(logs, _colours(logs), strict=True):
            axes[0].plot(*_errors(log), "o-", color=colour, ms=4, label=_outcome(log))
            losses = losses_of(log)
            axes[1].plot(_epochs(log), losses, color=colour, lw=0.6, alpha=0.25)
            mean = np.where(_finite(log), _smooth(losses), np.nan)
            axes[1].plot(_epochs(log), mean, color=colour, lw=1.6)
        axes[0].set_ylabel("test error (%)")
        _scale(axes[0], np.concatenate([_errors(log)[1] for log in logs]))
        axes[1].plot([], [], color="grey", lw=0.6, label="each minibatch")
        axes[1].plot([], [], color="grey", lw=1.6, label="geometric mean")
        axes[1].plot([], [], "|", color=ALARM, ms=10, mew=1.5, label="alarm")
        axes[1].plot([], [], "x", color="grey", ms=5, label="not finite")
        axes[1].set_ylabel("minibatch loss")
        shown = np.concatenate([losses_of(log) for log in logs])
        shown = shown[shown < 1000 * max(log.steps[0]["loss"] or 1 for log in logs)]
        if shown.size:
            _scale(axes[1], shown, always_log=True)
            axes[1].set_ylim(shown.min() / 1.5, shown.max() * 1.5)
        _draw_events(axes[2], logs)
        for axis in axes[:2]:
            axis.legend(**_LEGEND)
        _finish(figure, axes, logs, path)


def _draw_events(axis: Axes, logs: Sequence[Log]) -> None:
    """A row for every run, with its alarms and the losses that are not finite."""
    for row, log in enumerate(logs):
        epochs = _epochs(log)
        lost, alarms = epochs[~_finite(log)], _alarm_epochs(log)
        axis.plot(lost, np.full(lost.shape, row), "x", color="grey", ms=5)
        axis.plot(alarms, np.full(alarms.shape, row), "|", color=ALARM, ms=10, mew=1.5)
    counts = [_alarm_count(log) if "alarms" in log.steps[0] else "no guard" for log in logs]
    names = [log.config["optimizer"] for log in logs]
    axis.set_yticks(
        range(len(logs)), [f"{name}: {count}" for name, count in zip(names, counts, strict=True)]
    )
    axis.set_ylim(len(logs) - 0.5, -0.5)
    axis.yaxis.tick_right()


def _finish(figure: Figure, axes: Sequence[Axes], logs: Sequence[Log], path: Path) -> None:
    axes[-1].set_xlabel("epoch")
    axes[-1].set_xlim(0, logs[0].config["epochs"])
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(_title(logs), fontsize=12)
    figure.align_ylabels(axes)
    figure.savefig(path)


def _title(logs: Sequence[Log]) -> str:
    configs = [log.config for log in logs]
    name = f"{configs[0]['optimizer']} on " if len(configs) == 1 else ""
    rates = dict.fromkeys(f"{config['hyperparameters']['learning_rate']:g}" for config in configs)
    return (
        f"{name}{configs[0]['dataset']} ({configs[0]['model']}), "
        f"initial learning rate {', '.join(rates)}"
    )


def _outcome(log: Log) -> str:
    error = 100 * log.epochs[-1]["test_error"]
    return f"{log.config['optimizer']}: {error:.2f} %"


def _alarm_count(log: Log) -> str:
    count = alarms_of(log).size
    return f"{count:,} alarm{'' if count == 1 else 's'}"


def _epochs(log: Log) -> Floats:
    """The time of every step, in epochs."""
    return _floats([line["step"] / log.config["steps_per_epoch"] for line in log.steps])


def _alarm_epochs(log: Log) -> Floats:
    """The times of the alarms, in epochs."""
    alarms: Floats = alarms_of(log) / log.config["steps_per_epoch"]
    return alarms


def _errors(log: Log) -> tuple[list[int], Floats]:
    """The epochs, and the test errors after them in per cent."""
    errors = 100 * _floats([line["test_error"] for line in log.epochs])
    return [line["epoch"] for line in log.epochs], errors


def _finite(log: Log) -> npt.NDArray[np.bool_]:
    """Whether the loss of each step is finite."""
    return np.array([line["loss"] is not None for line in log.steps])


def _draw_errors(axis: Axes, log: Log) -> None:
    epochs, errors = _errors(log)
    label = f"after each epoch\n(last: {errors[-1]:.2f} %)"
    axis.plot(epochs, errors, "o-", color=COLOURS[0], ms=4, clip_on=False, zorder=3, label=label)
    axis.set_ylabel("test error (%)")
    _scale(axis, errors)


def _draw_losses(axis: Axes, epochs: Floats, log: Log) -> None:
    finite = _finite(log)
    shown = losses_of(log)
    axis.plot(epochs, shown, color="#7DB8DC", lw=0.8, label="each minibatch")
    axis.plot(epochs, _smooth(shown), color=COLOURS[0], lw=1.4, label="geometric mean")
    if not finite.all():
        lost = epochs[~finite]
        axis.plot(
            lost,
            np.full(lost.shape, 0.97),
            "x",
            color=ALARM,
            ms=5,
            clip_on=False,
            transform=axis.get_xaxis_transform(),
            label="not finite",
        )
    axis.set_ylabel("minibatch loss")
    axis.legend(**_LEGEND)
    _scale(axis, shown[np.isfinite(shown)])


def _colours(logs: Sequence[Log]) -> list[Any]:
    """A colour for each run: that of the optimizer, unless several runs are of one."""
    names = [log.config["optimizer"] for log in logs]
    if len(set(names)) == len(names):
        return list(colours_of(names).values())
    order = sorted(range(len(logs)), key=lambda i: "salera" not in logs[i].config["optimizer"])
    ranks = {index: rank for rank, index in enumerate(order)}
    return [palette(len(logs))[ranks[index]] for index in range(len(logs))]


def _draw_rates(axis: Axes, epochs: Floats, log: Log) -> None:
    groups = list(log.steps[0]["learning_rate"])
    modules = list(dict.fromkeys(_module(group) for group in groups))
    colours = dict(zip(modules, palette(len(modules)), strict=True))
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


def _module(group: str) -> str:
    """`Dense_0` for `Dense_0/kernel`: the parameters of a module share a colour."""
    return group.rpartition("/")[0] or group


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
