"""The tables of the report, each from a data frame of `frame`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.grid.frame import PROBLEM, of_the_paper
from benchmarks.grid.paper import published_failures
from benchmarks.markdown import markdown

_SETTING = ["optimizer", "setting", "learning_rate"]
_WORKS = 5  # %, an error below which a rate counts as one that works
_NOTES = {"cifar10": "CIFAR-10 here is a recompressed copy: compare within this report only."}


def notes(runs: pd.DataFrame) -> str:
    """What must be said beside numbers from the data sets of these runs."""
    return " ".join(note for name, note in _NOTES.items() if name in set(runs["dataset"]))


def _numbers(frame: pd.DataFrame) -> str:
    """A table of errors, with two decimals, and counts: nothing where there is none."""

    def shown(cell: Any) -> str:
        if isinstance(cell, float):
            return "" if np.isnan(cell) else f"{cell:.2f}"
        return str(cell)

    return markdown(frame.map(shown))


def _settings(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    cells = runs.groupby(list(by), dropna=False)
    return cells.agg(
        error=("error", "mean"),
        seeds=("seed", "nunique"),
        failed=("failed", "sum"),
        alarms=("alarms", "median"),
    ).reset_index()


def best_by_problem(runs: pd.DataFrame) -> str:
    """The least error of each optimizer on each problem."""
    cells = _settings(runs, [*PROBLEM, "problem", *_SETTING])
    best = cells.groupby(["optimizer", "problem"])["error"].min().unstack()
    return _numbers(best[cells.sort_values(PROBLEM)["problem"].unique()])


def robust_over_problems(runs: pd.DataFrame) -> str:
    """The setting of each optimizer with the least sum of ranks, and its errors."""
    cells = _settings(of_the_paper(runs, ["optimizer"]), [*PROBLEM, "problem", *_SETTING])
    problems = list(cells.sort_values(PROBLEM)["problem"].unique())
    errors = cells.pivot(index=_SETTING, columns="problem", values="error")[problems]
    best = []
    for _, same in errors.groupby(level="optimizer"):
        complete = same[[problem for problem in problems if same[problem].notna().all()]]
        if complete.size:
            best.append(same.loc[[complete.rank().sum(axis=1).idxmin()]])
    shown = pd.concat(best).reset_index(level=["setting", "learning_rate"])
    shown["learning_rate"] = shown["learning_rate"].map("{:g}".format)
    return _numbers(shown)


def by_rate(runs: pd.DataFrame) -> str:
    """Mean error by optimizer and rate; the worst seed counts where one has failed."""
    cells = runs.groupby(["optimizer", "learning_rate"])
    shown = cells["error"].mean().map("{:.2f}".format).where(~cells["failed"].any(), "failed")
    wide = shown.unstack()
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return _numbers(wide)


def over_rates(runs: pd.DataFrame) -> str:
    """How well each optimizer does at its best rate and at its worst, and at how many it works."""
    errors = runs.groupby(["optimizer", "learning_rate"])["error"].median().reset_index()
    errors["works"] = errors["error"] < _WORKS
    cells = errors.groupby("optimizer").agg(
        **{
            "best": ("error", "min"),
            "worst": ("error", "max"),
            "rates": ("error", "size"),
            f"rates below {_WORKS} %": ("works", "sum"),
        }
    )
    return _numbers(cells.sort_values("worst"))


def best(runs: pd.DataFrame) -> str:
    """The least error of each optimizer, and where."""
    cells = _settings(runs, _SETTING)
    best = cells.loc[cells.groupby("optimizer")["error"].idxmin()].sort_values("error")
    best["learning_rate"] = best["learning_rate"].map("{:g}".format)
    return _numbers(best.set_index("optimizer"))


def robust(runs: pd.DataFrame) -> str:
    """The setting with the least sum of ranks over the initial rates."""
    cells = _settings(runs, _SETTING)
    cells["rank"] = cells.groupby(["optimizer", "learning_rate"])["error"].rank()
    sums = cells.groupby(["optimizer", "setting"])["rank"].sum().reset_index()
    robust = sums.loc[sums.groupby("optimizer")["rank"].idxmin(), ["optimizer", "setting"]]
    chosen = cells.merge(robust, on=["optimizer", "setting"])
    wide = chosen.pivot(index=["optimizer", "setting"], columns="learning_rate", values="error")
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return _numbers(wide.reset_index().set_index("optimizer"))


def failures(runs: pd.DataFrame) -> str:
    """How many runs of each optimizer have failed, beside the paper's share."""
    if runs.empty:
        return ""
    cells = runs.groupby("optimizer").agg(
        **{"runs": ("failed", "size"), "failed": ("failed", "sum"), "failed, %": ("failed", "mean")}
    )
    cells["failed, %"] *= 100
    paper = [published_failures().get(name, np.nan) for name in cells.index]
    return _numbers(cells.assign(**{"the paper's, %": paper}))


def failures_by(runs: pd.DataFrame, column: str) -> str:
    """How many runs of each optimizer have failed, of how many, by a column."""
    cells = runs.groupby(["optimizer", column])["failed"].agg(["sum", "size"])
    shown = (cells["sum"].astype(str) + " of " + cells["size"].astype(str)).unstack(fill_value="")
    if column == "learning_rate":
        shown.columns = [f"{rate:g}" for rate in shown.columns]
    return _numbers(shown)


def by_divisor(runs: pd.DataFrame) -> str:
    """Errors and alarms over the hard settings, by what an alarm divides the rates by."""
    cells = runs.groupby("divisor").agg(
        **{
            "runs": ("error", "size"),
            "failed": ("failed", "sum"),
            "median error": ("error", "median"),
            "worst error": ("error", "max"),
            "median alarms": ("alarms", "median"),
        }
    )
    cells.index = cells.index.map("{:g}".format)
    return _numbers(cells)


def complete(runs: pd.DataFrame) -> str:
    """What has been run of each optimizer, and where."""
    cells = runs.groupby(["optimizer", "device"])
    counted = cells.agg(
        settings=("setting", "nunique"),
        rates=("learning_rate", "nunique"),
        seeds=("seed", "nunique"),
        runs=("seed", "size"),
        seconds=("seconds", "median"),
    )
    counted = counted.rename(columns={"seconds": "seconds a run"})
    return _numbers(counted.reset_index().set_index("optimizer"))


def gains(runs: pd.DataFrame) -> Iterator[str]:
    """For each optimizer of the slice of gains, the errors from its best rate to its worst."""
    if runs.empty:
        return
    yield "## The gain"
    yield (
        "The defaults, but for the gain: the errors at the best and at the worst initial rate, as "
        "the median over the seeds, and in parentheses the most alarms of a run."
    )
    by = ["optimizer", *PROBLEM, "problem", "gain", "learning_rate"]
    rates = runs.groupby(by).agg(
        error=("error", "median"), alarms=("alarms", "max"), seeds=("seed", "nunique")
    )
    cells = rates.groupby(by[:-1]).agg(
        best=("error", "min"),
        worst=("error", "max"),
        alarms=("alarms", "max"),
        rates=("error", "size"),
        seeds=("seeds", "min"),
    )
    cells["shown"] = [
        f"{cell.best:.2f} to {cell.worst:.2f} ({cell.alarms})" for cell in cells.itertuples()
    ]
    rows = [*PROBLEM, "problem", "rates", "seeds"]
    for optimizer, same in cells.reset_index().groupby("optimizer"):
        wide = same.pivot(index=rows, columns="gain", values="shown")
        wide.columns = [f"{gain:.3g}" for gain in wide.columns]
        wide = wide.reset_index().drop(columns=PROBLEM).set_index("problem")
        yield _numbers(wide.rename_axis(str(optimizer)).fillna(""))
    yield notes(runs)
