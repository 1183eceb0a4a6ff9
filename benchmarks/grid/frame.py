"""The results of the grid as a data frame, and which of its rows are compared or drawn."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.grid.results import Results
from benchmarks.run import FAILED, Run

PROBLEM = ["dataset", "model", "minibatch_ratio", "epochs"]
HORIZONS = (5, 20)
"""The epochs after which the paper measures."""
_OF_FIGURE_2 = ("paper-ag_adam", "paper-alera", "paper-salera")


def as_frame(results: Results) -> pd.DataFrame:
    """All results, a row for each run after 5 and after 20 epochs, as in the paper.

    A run of another length counts after its last epoch too, one whose learning rate follows a
    schedule only then.

    Args:
      results: those of the grid.

    Returns:
      The fields of `Run`, with the epochs after which it was measured, and with `learning_rate`,
      `setting` (the other hyperparameters, as text), `divisor` (of an alarm, NaN for the default)
      and `gain` (NaN but where it alone was chosen) for the hyperparameters; `problem`, as text;
      `error`, in %, and `errors`, those after each epoch; `test_losses`, and `train_errors` in %,
      of each epoch, or None where they were not kept; `failed`, as the paper defines it;
      `alarms` in all; `seconds` that the whole run took; `device` and `precision`.
    """
    rows = {}
    for run, result in results:
        for epochs in _measured_after(run):
            short = run._replace(epochs=epochs)
            rows[short] = _row(short, result)
    return pd.DataFrame(list(rows.values())).drop(columns="hyperparameters")


def _measured_after(run: Run) -> Iterator[int]:
    if not run.optimizer.startswith("cosine"):
        yield from (epochs for epochs in HORIZONS if epochs < run.epochs)
    yield run.epochs


def _row(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """The first `run.epochs` epochs of a result."""
    chosen = dict(run.hyperparameters)
    rate, divisor = chosen.pop("learning_rate"), 1 / chosen.get("factor", np.nan)
    errors = [100 * error for error in result["test_error"][: run.epochs]]
    lost = result["train_loss"][run.epochs - 1] is None
    kept = "test_loss" in result
    return run._asdict() | {
        "problem": _problem(run.dataset, run.model, run.minibatch_ratio, run.epochs),
        "learning_rate": rate,
        "setting": as_setting(chosen),
        "divisor": divisor,
        "gain": chosen["gain"] if set(chosen) == {"gain"} else np.nan,
        "errors": errors,
        "error": errors[-1],
        "test_losses": result["test_loss"][: run.epochs] if kept else None,
        "train_errors": [100 * x for x in result["train_error"][: run.epochs]] if kept else None,
        "failed": lost or errors[-1] > 100 * FAILED,
        "alarms": sum(result["alarms"][: run.epochs]),
        "seconds": result.get("seconds"),
        "device": f"{result['devices']} x {result['device']}, {result['precision']}",
    }


def as_setting(hyperparameters: Mapping[str, Any]) -> str:
    """Hyperparameters, in alphabetical order, as the column `setting` has them."""
    return ", ".join(f"{name} {value}" for name, value in hyperparameters.items())


def _problem(dataset: str, model: str, ratio: float, epochs: int) -> str:
    return f"{dataset} {model} {100 * ratio:g} %, {epochs}"


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of 20 epochs and the first seed, of problems with more than one optimizer."""
    long = runs[(runs["epochs"] == HORIZONS[-1]) & (runs["seed"] == 0)]
    return long[long.groupby("problem")["optimizer"].transform("nunique") > 1]


def of_the_paper(runs: pd.DataFrame, by: Sequence[str] = ("optimizer", "problem")) -> pd.DataFrame:
    """Without the runs of an optimizer at its defaults, where it was run at chosen settings."""
    has_settings = (runs["setting"] != "").groupby([runs[name] for name in by]).transform("any")
    return runs[(runs["setting"] != "") | ~has_settings]


def curves(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By problem of 20 epochs and optimizer, the errors by epoch at the best setting and rate."""
    long = runs[(runs["epochs"] == HORIZONS[-1]) & ~runs["failed"]]
    best = long.loc[long.groupby(["problem", "optimizer"])["error"].idxmin()]
    return {
        str(problem): dict(zip(rows["optimizer"], rows["errors"], strict=True))
        for problem, rows in best.groupby("problem")
        if len(rows) > 1
    }


def of_figure_2(runs: pd.DataFrame) -> pd.DataFrame:
    """Of each optimizer the best run on the problem of the paper's Figure 2, of those drawn there.

    Only runs whose test loss was kept.
    """
    problem = (runs["dataset"] == "cifar10") & (runs["model"] == "m4")
    kept = runs["test_losses"].notna() & (runs["epochs"] == HORIZONS[-1])
    there = runs[problem & kept & runs["optimizer"].isin(_OF_FIGURE_2)]
    return there.loc[there.groupby("optimizer")["error"].idxmin()]
