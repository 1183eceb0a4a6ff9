"""The paper's Tables 1 and 2 beside ours, cell by cell; its numbers are in `paper.csv`."""

import inspect
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import salera_optax
from benchmarks.grid.frame import HORIZONS, as_setting
from benchmarks.grid.space import SLICES, Settings
from benchmarks.markdown import markdown

OPTIMIZERS = {
    "NAG": "nag",
    "Adagrad": "adagrad",
    "ADAM": "adam",
    "AG-ADAM": "paper-ag_adam",
    "ALERA": "paper-alera",
    "SALERA": "published-salera",
    "SPALERA": "spalera",
}
"""The paper's optimizers, in its order, and their names here."""

_NAMES = {ours: theirs for theirs, ours in OPTIMIZERS.items()}
_DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
_CELL = ["dataset", "model", "epochs", "optimizer"]
_ROW = _CELL[:-1]
_CHOICE = ["minibatch_ratio", "setting", "learning_rate"]  # the paper gives the best of these
_WITHIN = 2  # of the paper's deviations

RATES, GRID = SLICES["paper"]
RATIOS = (0.01, 0.001)
SETTINGS: dict[str, dict[str, Settings]] = {
    "1": GRID,
    "2": SLICES["robust"].axes | {"adam": {"b1": (0.8,), "b2": (0.9999,)}},
}
"""By table, the settings over which the paper takes the least error."""


@cache
def published() -> pd.DataFrame:
    """The numbers of the paper: table, the columns of a cell, error, deviation."""
    return pd.read_csv(Path(__file__).with_name("paper.csv"), comment="#", dtype={"table": str})


def published_failures() -> dict[str, float]:
    """The paper's shares of failed runs, in %, by our names."""
    rows = published()[published()["table"] == "failures"]
    return dict(zip(rows["optimizer"].map(OPTIMIZERS), rows["error"], strict=True))


def _options(axes: Settings) -> list[str]:
    names = sorted(axes)
    values = product(*(axes[name] for name in names))
    return [as_setting(dict(zip(names, chosen, strict=True))) for chosen in values]


def in_grid(runs: pd.DataFrame, settings: dict[str, Settings]) -> pd.DataFrame:
    """The runs at the paper's initial rates and minibatches and at these settings, each once."""
    default = (runs["optimizer"] == "adam") & (runs["setting"] == "")
    runs = runs.assign(setting=runs["setting"].mask(default, "b1 0.9, b2 0.999"))
    asked = [(name, option) for name, axes in settings.items() for option in _options(axes)]
    kept = runs["learning_rate"].isin(RATES) & runs["minibatch_ratio"].isin(RATIOS)
    found = runs[kept].merge(pd.DataFrame(asked, columns=["optimizer", "setting"]))
    return found.drop_duplicates([*_CELL, *_CHOICE, "seed"])


def whole_grids(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of 20 epochs, one of each kind, of optimizers whose whole grid a problem has."""
    found = in_grid(runs[(runs["epochs"] == HORIZONS[-1]) & (runs["seed"] == 0)], GRID)
    whole = found["optimizer"].map(
        {name: len(RATES) * len(_options(axes)) for name, axes in GRID.items()}
    )
    return found[found.groupby(["problem", "optimizer"])["error"].transform("size") == whole]


def cells(runs: pd.DataFrame, table: str) -> pd.DataFrame:
    """The cells of a table of the paper, and ours.

    Args:
      runs: those of `as_frame`.
      table: "1" or "2".

    Returns:
      A row for each cell, in the paper's order: its place, as the paper names it, the paper's
      `error` and `deviation`; of ours `ours`, the least mean over the seeds, `our_deviation` over
      these seeds, how many `runs` that is and their `minibatch_ratio`, and of how many minibatches
      it is the least, `ratios`: all NaN where nothing has been run; and `verdict`: agrees, lower,
      higher, or nothing.
    """
    known = in_grid(runs, SETTINGS[table])
    known["optimizer"] = known["optimizer"].map(_NAMES)
    theirs = published()[published()["table"] == table]
    both = theirs.merge(_least(known), on=_CELL, how="left")
    apart = (both["ours"] - both["error"]) / both["deviation"]
    both["verdict"] = np.select(
        [both["ours"].isna(), apart.abs() < _WITHIN + 1e-6, apart < 0],
        ["", "agrees", "lower"],
        "higher",
    )
    return both


def _least(known: pd.DataFrame) -> pd.DataFrame:
    """For every cell, named as in the paper, the setting of the least mean over the seeds."""
    known = known.assign(
        dataset=known["dataset"].map(_DATASETS), model=known["model"].str.replace("m", "M")
    )
    means = known.groupby([*_CELL, *_CHOICE], as_index=False).agg(
        ours=("error", "mean"), our_deviation=("error", "std"), runs=("error", "size")
    )
    means["ratios"] = means.groupby(_CELL)["minibatch_ratio"].transform("nunique")
    return means.loc[means.groupby(_CELL)["ours"].idxmin()].drop(columns=_CHOICE[1:])


def beyond(runs: pd.DataFrame) -> str:
    """What the paper has not: the rollback, and `salera_adamw` at its default, beside its best.

    Args:
      runs: those of `as_frame`.
    """
    default = inspect.signature(salera_optax.salera_adamw).parameters["learning_rate"].default
    tuned = (runs["optimizer"] == "salera_adamw") & (runs["learning_rate"] != default)
    axes = {"paper-salera": GRID["paper-salera"], "salera_adamw": {}}
    here: dict[tuple[Any, ...], str] = {
        (cell.dataset, cell.model, cell.epochs, cell.optimizer): _ours(cell)
        for cell in _least(in_grid(runs[~tuned], axes)).itertuples()
    }
    theirs = published()[published()["table"] == "1"]
    rows: list[dict[str, str]] = []
    for place, same in theirs.groupby(_ROW, sort=False):
        ours = [here.get((*place, name), "") for name in axes]
        if any(ours):
            cells: list[Any] = list(same.itertuples())
            best = min(cells, key=lambda cell: cell.error)
            rows.append(
                {
                    "epochs": f"{place[0]} {place[1]}, {place[2]}",
                    "the paper's SALERA": next(
                        _theirs(cell) for cell in cells if cell.optimizer == "SALERA"
                    ),
                    "with the rollback, here": ours[0],
                    "the paper's best": f"{_theirs(best)}, {best.optimizer}",
                    "`salera_adamw()`, here": ours[1],
                }
            )
    return markdown(pd.DataFrame(rows), index=False) if rows else ""


def side_by_side(cells: pd.DataFrame) -> str:
    """The table as the paper prints it, each of its rows followed by ours and by the verdicts."""
    wide = cells.assign(
        paper=[_theirs(cell) for cell in cells.itertuples()],
        here=[_ours(cell) for cell in cells.itertuples()],
    ).set_index("optimizer")
    rows: list[dict[str, str]] = []
    for (dataset, model, epochs), same in wide.groupby(_ROW, sort=False):
        for column in ("paper", "here", "verdict"):
            name = f"{dataset} {model}, {epochs}" if column == "paper" else ""
            rows.append({"epochs": name, "": column, **same[column]})
    return markdown(pd.DataFrame(rows), index=False)


def _theirs(cell: Any) -> str:
    return f"{cell.error:.2f} ({cell.deviation:.2f})"


def _ours(cell: Any) -> str:
    if np.isnan(cell.ours):
        return ""
    deviation = "" if cell.runs == 1 else f" ({cell.our_deviation:.2f})"
    return f"{cell.ours:.2f}{deviation}, {cell.runs:.0f} at {100 * cell.minibatch_ratio:g} %"


def _count(cells: pd.DataFrame) -> str:
    compared = cells["ours"].notna().sum()
    return f"{(cells['verdict'] == 'agrees').sum()} of {compared}" if compared else ""


def summary(cells: pd.DataFrame) -> str:
    """What was found, in a sentence; nothing if no cell can be compared."""
    compared = cells[cells["ours"].notna()]
    if compared.empty:
        return ""
    counts = compared["verdict"].value_counts().reindex(["agrees", "higher", "lower"], fill_value=0)
    parts = [f"{name}: {_count(same)}" for name, same in compared.groupby("dataset", sort=False)]
    both = compared["ratios"] == len(RATIOS)
    once = (~both & (compared["verdict"] == "higher")).sum()
    return (
        f"**Of the {len(cells)} cells of the paper's Tables 1 and 2, {len(compared)} can be "
        f"compared, and {counts['agrees']} of them agree** within {_WITHIN} of the paper's "
        f"deviations ({', '.join(parts)}); {counts['higher']} of ours are higher, "
        f"{counts['lower']} lower. The paper takes the better of two minibatches; in {once} of the "
        "higher cells only one of them has been run here."
        + (f" Where both have been, {_count(compared[both])} agree." if both.any() else "")
    )


def agreement(runs: pd.DataFrame, cells: pd.DataFrame) -> str:
    """By problem, how many cells agree, and how much of the paper's grid stands behind ours."""
    kinds = ["optimizer", *_CHOICE]
    possible = len(RATIOS) * len(RATES) * sum(len(_options(GRID[name])) for name in _NAMES)
    known = in_grid(runs, {name: GRID[name] for name in _NAMES})
    known["problem"] = known["dataset"].map(_DATASETS) + " " + known["model"].str.replace("m", "M")
    run = known.groupby("problem")[kinds].apply(lambda same: len(same.drop_duplicates()))
    rows = []
    for (dataset, model), same in cells.groupby(["dataset", "model"], sort=False):
        problem = f"{dataset} {model}"
        rows.append(
            {"cells that agree, of those compared": problem}
            | {f"Table {table}": _count(part) for table, part in same.groupby("table")}
            | {
                "lower": str((same["verdict"] == "lower").sum()),
                "higher": str((same["verdict"] == "higher").sum()),
                "of the paper's grid run, %": f"{100 * run.get(problem, 0) / possible:.0f}",
            }
        )
    return markdown(pd.DataFrame(rows), index=False)
