"""The tables, as Markdown."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.faults.guards import GUARDS
from benchmarks.faults.injection import BATCH, EVERY, FAULTS
from benchmarks.faults.liveness import BAD, PAIRS, STEPS, TROUBLES
from benchmarks.faults.measure import HIDDEN, MARGIN, starts
from benchmarks.faults.scores import as_frame, summary
from benchmarks.markdown import markdown

_RIVALS = (
    "Skip-step is the rule of OLMo-core and Levanter, mean + 6 deviations of 128 losses and "
    "gradient norms; a NaN that it skips gets through all the same, because 0 x NaN is NaN. "
    "MaxText's skip-step has the same rule and holds a NaN, but skips all else as well for as "
    "long as the NaN is among the 128. Skip-and-clip is axlearn's: it skips gradients that "
    "are not finite or have a norm of 100 or more, and clips the others to a norm of 1. ZClip "
    "clips a norm more than 2.5 deviations above its running mean to near that mean, the "
    "nearer the more it stands out, and every norm to 1; it skips nothing. The published "
    "Page-Hinkley test is the paper's text: smoothing by the ratio of the minibatch to the "
    "training set, and a rollback; a NaN is held in it here, which silences it for good in "
    "the paper. `apply_if_finite` gives up after 5 bad steps in a row."
)
_TWINS = (
    "Here nothing is wrong with the steps: the data are bad, or the loss changes. A network "
    f"of 32 hidden units on the digits, {STEPS} steps, the 200 bad minibatches from step "
    f"{BAD} on. The twin is the same optimizer under `apply_if_finite`, on the same "
    "minibatches; that of `salera` is `alera`, that of `salera_adamw` is `ag_adam`. In each "
    "cell: the loss on all images at the end, guarded / twin, and behind them what alarms have "
    "left of the steps, where that is not all."
)


def survival(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs survived, faults by guards, as text."""
    counts = summary(runs)
    text = counts["survived"].astype(str) + " of " + counts["runs"].astype(str)
    return _wide(counts.assign(text=text), "text").drop(index=_control())


def write_tables(results: dict[str, Any], path: Path) -> None:
    """Writes what `faults` has measured as Markdown, beside its picture."""
    runs = as_frame(results)
    medians = summary(runs)
    parts = [
        "# Faults injected into training runs",
        _found(runs, results["twins"]),
        _made(results),
        "![Runs that survive, faults by guards](faults.png)",
        "A run **survives** if its test error at the end is less than "
        f"{MARGIN} points above that of the same run without the fault: the same guard, seed and "
        "minibatches. **Steps to recover**: from the start of the fault until this holds and keeps "
        f"holding, looked at every {EVERY} steps. Medians are over all runs of a fault.",
        markdown(pd.DataFrame({"what happens": {n: f.text for n, f in FAULTS.items()}})),
        _RIVALS,
        "## Runs that survive",
        markdown(survival(runs)),
        "## Beside the twin without the guard",
        _TWINS,
        markdown(_twins(results["twins"])),
        "## Steps to recover, median",
        markdown(_recovery(medians)),
        "## Test error at the end, %, median",
        markdown(_wide(medians, "error").map("{:.1f}".format)),
        "## Test loss at the end, median",
        markdown(_loss(medians)),
        "## Alarms, median",
        "For apply_if_finite, the two skip-steps and skip-and-clip the steps that they skip. "
        "Before the fault a run is the same as its control, so that its alarms there are among the "
        "false alarms below.",
        markdown(_wide(medians, "alarms").map("{:g}".format)),
        "## False alarms, all controls together",
        markdown(_false_alarms(runs, results["steps"])),
        "## Survival by the step of the fault",
        markdown(_by_place(runs), index=False),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _made(results: dict[str, Any]) -> str:
    """How the runs were made."""
    *first, last = starts(results["steps"])
    return (
        f"Made by `python -m benchmarks faults`: {results['dataset']}, a network "
        f"with two hidden layers ({HIDDEN[0]} and {HIDDEN[1]}), minibatches of {BATCH} on two "
        f"data-parallel replicas, {results['steps']} steps. Adam at "
        f"{GUARDS['page_hinkley(adam)'].learning_rate:g} under all guards but the last three, "
        f"which are SGD with momentum 0.9 at {GUARDS['page_hinkley(momentum)'].learning_rate:g}, "
        "`salera` and `salera_adamw`. The fault comes at step "
        f"{', '.join(map(str, first))} or {last}, each in "
        f"{results['seeds']} runs of different seeds."
    )


def _found(runs: pd.DataFrame, twins: list[dict[str, Any]]) -> str:
    """The result in a few sentences."""
    struck = runs[runs["fault"] != _control()]
    survived = struck.groupby("guard", sort=False)["survived"].agg(["sum", "count"])
    ours = "page_hinkley(adam)"
    # Behind it stand the paper's test and ours.
    rival = str(survived["sum"].loc[:"ZClip"].idxmax())
    paper = "Page-Hinkley, published"
    counts = {name: int(survived["sum"][name]) for name in (ours, rival, paper)}
    all_of_them = int(survived["count"][ours])
    kept = pd.DataFrame(twins)
    as_good = (kept["guarded"] <= 2 * kept["twin"].fillna(np.inf) + 0.01) & (kept["scale"] >= 0.5)
    flagship = kept["optimizer"] == "salera_adamw"
    return (
        f"**{counts[ours]} of {all_of_them} runs of Adam that are struck by a fault survive under "
        f"`page_hinkley`, {counts[paper]} with the paper's test in it, {counts[rival]} under the "
        f"best of the other guards ({rival}).** Where the data are to blame: of {sum(~flagship)} "
        f"runs of SGD, momentum, Adam and `salera` through bad or changing data "
        f"{as_good[~flagship].sum()} end at no more than twice the loss of the run without the "
        "guard, plus 0.01, with at least half of their steps; of those of `salera_adamw` "
        f"{as_good[flagship].sum()} of {sum(flagship)}."
    )


def _twins(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Troubles by optimizers: loss with the guard / without, and the scale where it is below 1."""

    def cell(row: pd.Series) -> str:
        losses = " / ".join(
            "explodes" if pd.isna(row[kind]) else f"{row[kind]:.2g}" for kind in ("guarded", "twin")
        )
        return losses if row["scale"] == 1 else f"{losses} ({row['scale']:g})"

    frame = pd.DataFrame(rows)
    return (
        frame.assign(text=frame.apply(cell, axis=1))
        .pivot(index="trouble", columns="optimizer", values="text")
        .loc[list(TROUBLES), list(PAIRS)]
    )


def _recovery(medians: pd.DataFrame) -> pd.DataFrame:
    """Steps from the start of a fault, faults by guards, as text."""
    steps = _wide(medians, "recovery").drop(index=_control())
    return steps.map(lambda r: f"{r:g}" if np.isfinite(r) else "never")


def _loss(medians: pd.DataFrame) -> pd.DataFrame:
    return _wide(medians, "loss").map(lambda loss: f"{loss:.3g}" if loss < 1e3 else "explodes")


def _false_alarms(runs: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The alarms of the runs without a fault, empty where a guard has none, and their steps."""
    control = runs[runs["fault"] == _control()].groupby("guard", sort=False)
    false = pd.DataFrame({"false alarms": control["alarms"].sum()})
    false["healthy steps"] = (steps * control.size()).map("{:,}".format)
    false.loc[[name for name in false.index if GUARDS[name].alarm is None], "false alarms"] = None
    false["false alarms"] = false["false alarms"].map("{:g}".format, na_action="ignore").fillna("")
    return false


def _by_place(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of runs that survive, by fault and the step where it starts, as text."""
    place = runs.groupby(["fault", "start", "guard"], sort=False)["survived"].mean().unstack()
    place = place.loc[list(FAULTS)[1:], list(GUARDS)].map("{:.0%}".format)
    return place.reset_index()


def _control() -> str:
    return next(iter(FAULTS))


def _wide(medians: pd.DataFrame, values: str) -> pd.DataFrame:
    return medians.pivot(index="fault", columns="guard", values=values).loc[
        list(FAULTS), list(GUARDS)
    ]
