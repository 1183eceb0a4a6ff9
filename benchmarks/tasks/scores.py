"""What the runs amount to: for every task and optimizer, and over the tasks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tasks.contenders import CONTENDERS
from benchmarks.tasks.suite import TASKS

RELIABLE = 0.05
"""Reliable is who at its default is at most this share worse than AdamW from its best rate."""
REFERENCE = "adamw"
SPLITS = ("tuning", "confirmation")


def curves(lines: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The mean over the seeds for every task, optimizer and rate.

    Args:
      lines: what `measure` has written, of runs that may be done twice: the later ones count.

    Returns:
      A row for each, with `value`, infinite where one run has failed: its loss or its value is
      not finite; and `seeds`, how many runs there were.
    """
    runs = pd.DataFrame(list(lines)).drop_duplicates(
        ["task", "optimizer", "steps", "seed", "learning_rate"], keep="last"
    )
    known = runs["task"].isin(list(TASKS)) & runs["optimizer"].isin(list(CONTENDERS))
    runs = runs[known].astype({"value": float, "loss": float})
    failed = ~np.isfinite(runs["value"]) | ~np.isfinite(runs["loss"])
    runs["value"] = runs["value"].mask(failed, np.inf)
    grouped = runs.groupby(["task", "optimizer", "learning_rate"])["value"]
    return grouped.agg(value="mean", seeds="size").reset_index()


def scores(curves: pd.DataFrame) -> pd.DataFrame:
    """A row for every task and optimizer.

    Returns:
      `default`, `best`, `best_rate` and `worst` over the rates; `near`, how many rates end near the
      best of all optimizers and rates; `rates`, how many there are; `edge`, whether the best rate
      is the smallest or the largest; `reliable`, see `RELIABLE`; and the ranks among the
      optimizers, `default_rank` and `best_rank`.
    """
    rows = []
    for names, curve in curves.groupby(["task", "optimizer"], sort=False):
        task, optimizer = map(str, names)
        values = curve.set_index("learning_rate")["value"].sort_index()
        default = values.get(CONTENDERS[optimizer].rate, np.nan)
        best_of_all = curves.loc[curves["task"] == task, "value"].min()
        rows.append(
            {
                "task": task,
                "optimizer": optimizer,
                "default": default,
                "best": values.min(),
                "best_rate": values.idxmin(),
                "worst": values.max(),
                "near": int((values <= TASKS[task].near(best_of_all)).sum()),
                "rates": len(values),
                "edge": values.idxmin() in {values.index[0], values.index[-1]},
            }
        )
    found = pd.DataFrame(rows)
    references = found[found["optimizer"] == REFERENCE].set_index("task")["best"]
    found["reliable"] = found["default"] <= (1 + RELIABLE) * found["task"].map(references)
    for kind in ("default", "best"):
        found[f"{kind}_rank"] = found.groupby("task")[kind].rank()
    return found


def overall(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The means over the tasks of each split, and over all.

    Returns:
      By the name of the split or "all", a row for every optimizer: the mean ranks `default_rank`
      and `best_rank`, `reliable` as a share of the tasks, `near` as a share of the rates.
    """
    figures = found.assign(
        near=found["near"] / found["rates"],
        split=[TASKS[task].split for task in found["task"]],
    )
    parts = {name: figures[figures["split"] == name] for name in SPLITS} | {"all": figures}
    columns = ["default_rank", "best_rank", "reliable", "near"]
    return {
        name: part.groupby("optimizer")[columns].mean() for name, part in parts.items() if len(part)
    }
