"""All runs of the league of faults, and what is kept of each."""

from typing import Any

import jax
import numpy as np

from benchmarks import data, models
from benchmarks.faults.guards import GUARDS
from benchmarks.faults.injection import EVERY, FAULTS, Course, case, runner
from benchmarks.faults.liveness import TROUBLES, outcomes

MARGIN = 2  # points of the test error, above the same run without the fault
PLACES = (0.05, 0.25, 0.6)  # where the fault starts, as shares of the run
HIDDEN = (64, 32)  # widths of the network
_TEST_IMAGES = 1000  # at most; digits have 297
_AT_ONCE = 11  # runs in step with one another: more do not fit into a cache


def starts(steps: int) -> list[int]:
    """The steps at which the faults start, from 0."""
    return [EVERY * round(share * steps / EVERY) for share in PLACES]


def league(name: str, examples: data.Dataset, steps: int, seeds: int) -> list[dict[str, Any]]:
    """All runs under one guard: with every fault, from every place on, from so many seeds.

    Every place has seeds of its own, the same for all faults: each run with a fault has one
    without at its side, which is the same up to the fault.

    Args:
      name: of the guard.
      examples: the images; of the test set the first 1,000 are used.
      steps: of a run, a multiple of `EVERY`.
      seeds: for every fault and place.

    Returns:
      A row for every fault, with a list over the runs of each figure.
    """
    test = data.Split(*(part[:_TEST_IMAGES] for part in examples.test))
    run = runner(GUARDS[name], models.MLP(HIDDEN), data.Dataset(examples.train, test), steps)
    places = [(at, seed) for at in starts(steps) for seed in range(seeds)]
    cases = [
        case(fault, start, index)
        for fault in FAULTS.values()
        for index, (start, _) in enumerate(places)
    ]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    runs = Course(*jax.jit(lambda cases: jax.lax.map(run, cases, batch_size=_AT_ONCE))(batch))
    # (faults, places, ...)
    runs = Course(*(np.asarray(x).reshape(len(FAULTS), len(places), *x.shape[1:]) for x in runs))
    rows = []
    for fault, *those in zip(FAULTS, *runs, strict=True):
        figures = [
            _figures(Course(*one), control, start)
            for *one, control, (start, _) in zip(*those, runs.errors[0], places, strict=True)
        ]
        lists = {key: [figure[key] for figure in figures] for key in figures[0]}
        rows.append({"guard": name, "fault": fault, **lists})
    return rows


def _figures(run: Course, control: Any, start: int) -> dict[str, Any]:
    """What is kept of a run; `control` are the errors of the same run without the fault."""
    well = 100 * (run.errors - control) < MARGIN
    ill = np.flatnonzero(~well)
    alarms = np.flatnonzero(run.alarms)
    loss = float(run.losses[-1])
    return {
        "start": start,
        "survived": bool(well[-1]),
        "recovery": EVERY * int(ill[-1] + 2) - start if well[-1] and ill.size else 0,
        "error": round(100 * float(run.errors[-1]), 3),
        "loss": float(f"{loss:.4g}") if np.isfinite(loss) else None,
        "alarms": alarms.size,
        "delay": int(alarms[0]) - start if alarms.size else None,
    }


def beside_twins(name: str) -> list[dict[str, Any]]:
    """What every trouble costs one of `PAIRS`: a row for each."""
    guarded, twin = outcomes(name, True), outcomes(name, False)
    kinds = {"guarded": guarded.loss, "twin": twin.loss, "scale": guarded.scale}
    return [
        {"optimizer": name, "trouble": trouble}
        | {kind: _number(values[index]) for kind, values in kinds.items()}
        for index, trouble in enumerate(TROUBLES)
    ]


def _number(value: Any) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None
