"""What detectors do on losses that are made up: how often they cry wolf, and how soon they notice.

The losses (see `streams`) cost nothing, so that each detector can be given millions of steps. What
an alarm does to a training run is left out: see `benchmarks.grid` for that.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.detector import streams
from benchmarks.detector.detectors import StreamDetector

MOMENTS = {"early": 100, "late": 5000}
"""The step of a change: in the descent, and long behind it."""
PATIENCE = 200
"""Steps within which a change must be noticed: later it has been missed."""
EARLY_STEPS = 200
"""So many first steps of healthy losses, whose alarms are counted apart."""


def false_alarms(
    detector: StreamDetector, count: int, steps: int, seed: int
) -> Iterator[dict[str, Any]]:
    """For every curve and noise: healthy steps, alarms, and those of them that came early."""
    for curve in streams.CURVES:
        for noise in streams.NOISES:
            some = max(1, round(count * detector.share))
            losses = streams.healthy(jax.random.key(seed), curve, noise, some, steps)
            alarms = detector.alarms(np.asarray(losses))
            if curve == "after an alarm":
                alarms = alarms[:, streams.BAD_LOSS_AT + 1 :]
            yield {
                "curve": curve,
                "noise": noise,
                "streams": some,
                "steps": alarms.size,
                "alarms": int(alarms.sum()),
                "early alarms": int(alarms[:, :EARLY_STEPS].sum()),
            }


def delays(detector: StreamDetector, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """For every change: median and 90 % quantile of the steps to the alarm, and how many missed.

    A delay of 0 is an alarm at the first loss after the change; None is a change that was missed.
    """
    for moment, when in MOMENTS.items():
        for change in streams.CHANGES:
            some = max(1, round(count * detector.share))
            losses = streams.changed(jax.random.key(seed), change, when, some, when + PATIENCE)
            alarms = detector.alarms(np.asarray(losses))[:, when:]
            noticed = alarms.any(1)
            delay = np.where(noticed, alarms.argmax(1), np.inf)
            middle, most = np.quantile(delay, [0.5, 0.9], method="higher")
            yield {
                "moment": moment,
                "change": change,
                "median": int(middle) if np.isfinite(middle) else None,
                "90 %": int(most) if np.isfinite(most) else None,
                "missed": float(1 - noticed.mean()),
            }
