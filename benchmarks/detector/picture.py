"""The picture of the detectors: how often they cry wolf, and how soon they notice a jump."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.detector.streams import JUMPS, NOISES
from benchmarks.plots import COLOURS, OTHERS, STYLE

_SHOWN = {
    "robust": (COLOURS[0], "o"),
    "published, smoothing 0.01": (OTHERS[0], "v"),
    "published, smoothing 0.1": (OTHERS[1], "^"),
    "mean + 6 deviations of 128": (OTHERS[2], "s"),
    "CUSUM": (OTHERS[3], "D"),
    "river ADWIN": (COLOURS[5], "x"),
}
_MISSED = 300  # where a jump is drawn that most streams miss


def save_picture(results: dict[str, Any], path: Path) -> None:
    """Draws what `python -m benchmarks detector` has measured, and writes it as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(6, 5, 5))
        axes[2].sharey(axes[1])
        _draw_false_alarms(axes[0], pd.DataFrame(results["false alarms"]))
        late = pd.DataFrame(results["delays"])
        for axis, moment in zip(axes[1:], ("early", "late"), strict=True):
            _draw_delays(axis, late[late["moment"] == moment])
        axes[1].set_title("delay after a jump, in the descent", fontsize=10, loc="left")
        axes[2].set_title("and after it", fontsize=10, loc="left")
        axes[1].set_ylabel("losses to the alarm (median)")
        axes[2].tick_params(labelleft=False)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_SHOWN) // 2
        )
        figure.savefig(path)


def _draw_false_alarms(axis: Axes, frame: pd.DataFrame) -> None:
    """Mean time between alarms; an open end where there was none in that time."""
    sums = frame.groupby(["detector", "noise"])[["steps", "alarms"]].sum()
    for row, (name, (colour, marker)) in enumerate(_SHOWN.items()):
        some = sums.loc[name].loc[list(NOISES)]
        steps = some["steps"] / some["alarms"].clip(lower=1)
        place = np.arange(len(NOISES)) + 0.1 * (row - (len(_SHOWN) - 1) / 2)
        axis.plot(steps, place, marker, color=colour, ms=5, label=name)
        none = (some["alarms"] == 0).to_numpy()
        axis.plot(
            1.6 * steps[none], place[none], ls="", marker="$\\rightarrow$", color=colour, ms=9
        )
    axis.set_xscale("log")
    axis.set_yticks(range(len(NOISES)), list(NOISES))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("steps, right is better; an arrow: no alarm in so many")
    axis.set_title("mean time between false alarms", fontsize=10, loc="left")


def _draw_delays(axis: Axes, frame: pd.DataFrame) -> None:
    for name, (colour, marker) in _SHOWN.items():
        some = frame[frame["detector"] == name].set_index("change")["median"]
        delay = some.loc[[f"jump {size}" for size in JUMPS]].astype(float) + 1
        axis.plot(JUMPS, delay.fillna(_MISSED), marker + "-", color=colour, ms=5, lw=1.4)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(JUMPS, [str(size) for size in JUMPS])
    names = ["1st", "3rd", "10th", "30th", "100th", "missed"]
    axis.set_yticks([1, 3, 10, 30, 100, _MISSED], names)
    axis.minorticks_off()
    axis.set_xlabel("size of the jump, in deviations")
