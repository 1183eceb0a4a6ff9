"""What the runs amount to: for every fault and guard."""

from typing import Any

import numpy as np
import pandas as pd


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for every fault and guard, medians over the runs.

    `recovery` is infinite where the median run has not recovered, `loss` where it is not finite;
    `runs`, `survived` and `all_alarms` are sums.
    """
    each = runs.assign(
        recovery=runs["recovery"].where(runs["survived"], np.inf),
        loss=runs["loss"].fillna(np.inf),
        runs=1,
    )
    grouped = each.groupby(["fault", "guard"], sort=False)
    medians = grouped[["recovery", "error", "loss", "alarms"]].median()
    sums = grouped[["runs", "survived"]].sum()
    return medians.join(sums).assign(all_alarms=grouped["alarms"].sum()).reset_index()


def as_frame(results: dict[str, Any]) -> pd.DataFrame:
    """One row for every run."""
    rows = pd.DataFrame(results["rows"])
    runs = rows.explode([key for key in rows.columns if key not in {"guard", "fault"}])
    kinds = {"survived": bool, "start": int, "alarms": int}
    kinds |= dict.fromkeys(("recovery", "error", "loss", "delay"), float)
    return runs.astype(kinds).reset_index(drop=True)
