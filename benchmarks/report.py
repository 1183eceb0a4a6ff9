"""`python -m benchmarks report`: tables and figures from the results of the grid, never typed."""

from collections.abc import Sequence
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.grid import Results
from benchmarks.grid_command import RESULTS
from benchmarks.plots import COLOURS, STYLE
from benchmarks.run import FAILED

_PROBLEM = ["dataset", "model", "minibatch_ratio", "epochs"]
_CHANCE = 90  # % wrong when guessing one of ten classes
_COLUMNS = 4  # of panels in a figure
_NOTES = {"cifar10": "CIFAR-10 here is a recompressed copy: compare within this table only."}
# What the paper reports, where it is known to us.
_PAPER_FAILURES = {"alera": 18.3, "published-salera": 11.7}


def table(results: Results) -> pd.DataFrame:
    """All results, a row each.

    Args:
      results: those of the grid.

    Returns:
      The fields of `Run`, with `learning_rate` and `setting` (the other hyperparameters, as text)
      for the hyperparameters; `error`, in %, after the last epoch; `failed`, as the paper defines
      it; `alarms` in all; `device` and `precision`.
    """
    rows = []
    for run, result in results:
        chosen = dict(run.hyperparameters)
        rate = chosen.pop("learning_rate")
        error, loss = result["test_error"][-1], result["train_loss"][-1]
        rows.append(
            run._asdict()
            | {
                "learning_rate": rate,
                "setting": ", ".join(f"{name} {value}" for name, value in chosen.items()),
                "error": 100 * error,
                "failed": loss is None or error > FAILED,
                "alarms": sum(result["alarms"]),
                "device": f"{result['devices']} x {result['device']}, {result['precision']}",
            }
        )
    return pd.DataFrame(rows).drop(columns="hyperparameters")


def write_report(runs: pd.DataFrame, folder: Path) -> None:
    """Writes `README.md` and its pictures into the folder."""
    parts = [
        "# Results",
        "Made by `python -m benchmarks report` from the runs in `runs/`; how to repeat or extend "
        "them: `python -m benchmarks grid --help`. Errors are those on the whole test set after "
        "the last epoch, in %, as the mean over the seeds; a run has failed when it is wrong on "
        "more than 80 % or its loss is not finite.",
    ]
    for _, same in runs.groupby(_PROBLEM):
        dataset, model, ratio, epochs = same[_PROBLEM].iloc[0]
        name = f"{dataset}-{model}-{ratio:g}-{epochs}"
        parts.append(f"## {dataset}, {model}, minibatch {100 * ratio:g} %, epochs: {epochs}")
        parts += [_NOTES[dataset]] if dataset in _NOTES else []
        plain, chosen = same[same["setting"] == ""], same[same["setting"] != ""]
        if len(plain):
            picture = f"robustness-{name}.png"
            save_robustness(plain, folder / picture)
            parts += [
                "Every optimizer at its defaults, by initial learning rate.",
                f"![Test error by initial learning rate, for every optimizer]({picture})",
                _by_rate(plain),
            ]
        if len(chosen):
            parts += ["The best setting of each optimizer.", _best(same)]
            parts += ["The setting of each that is best over all initial rates.", _robust(chosen)]
            parts += ["Failed runs; the paper's share is that over all its problems."]
            parts += [_failures(chosen)]
        parts += ["What has been run.", _complete(same)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(floatfmt=".2f"))


def _by_rate(runs: pd.DataFrame) -> str:
    """Mean error by optimizer and rate; the worst seed counts where one has failed."""
    cells = runs.groupby(["optimizer", "learning_rate"])
    shown = cells["error"].mean().map("{:.2f}".format).where(~cells["failed"].any(), "failed")
    wide = shown.unstack()
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return str(wide.fillna("").to_markdown(disable_numparse=True))


def _settings(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    cells = runs.groupby(list(by), dropna=False)
    return cells.agg(
        error=("error", "mean"),
        seeds=("seed", "nunique"),
        failed=("failed", "sum"),
        alarms=("alarms", "median"),
    ).reset_index()


def _best(runs: pd.DataFrame) -> str:
    """Table 1 of the paper: the least error of each optimizer, and where."""
    cells = _settings(runs, ["optimizer", "setting", "learning_rate"])
    best = cells.loc[cells.groupby("optimizer")["error"].idxmin()].sort_values("error")
    best["learning_rate"] = best["learning_rate"].map("{:g}".format)
    return _markdown(best.set_index("optimizer"))


def _robust(runs: pd.DataFrame) -> str:
    """Table 2 of the paper: the setting with the least sum of ranks over the initial rates."""
    cells = _settings(runs, ["optimizer", "setting", "learning_rate"])
    cells["rank"] = cells.groupby(["optimizer", "learning_rate"])["error"].rank()
    sums = cells.groupby(["optimizer", "setting"])["rank"].sum().reset_index()
    robust = sums.loc[sums.groupby("optimizer")["rank"].idxmin(), ["optimizer", "setting"]]
    chosen = cells.merge(robust, on=["optimizer", "setting"])
    wide = chosen.pivot(index=["optimizer", "setting"], columns="learning_rate", values="error")
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return _markdown(wide.reset_index().set_index("optimizer"))


def _failures(runs: pd.DataFrame) -> str:
    cells = runs.groupby("optimizer")["failed"].agg(["count", "sum", "mean"])
    cells.columns = ["runs", "failed", "failed, %"]
    cells["failed, %"] *= 100
    paper = cells.index.map(lambda name: str(_PAPER_FAILURES.get(name, "")))
    return _markdown(cells.assign(**{"the paper's, %": paper}))


def _complete(runs: pd.DataFrame) -> str:
    cells = runs.groupby(["optimizer", "device"])
    counted = cells.agg(
        settings=("setting", "nunique"),
        rates=("learning_rate", "nunique"),
        seeds=("seed", "nunique"),
        runs=("seed", "size"),
    )
    return _markdown(counted.reset_index().set_index("optimizer"))


def save_robustness(runs: pd.DataFrame, path: Path) -> None:
    """Draws the test error against the initial learning rate, a panel for each rival of SALERA.

    The line is the median over the seeds, the points are the seeds.
    """
    rivals = [name for name in runs["optimizer"].unique() if name != "salera"]
    rows = -(-len(rivals) // _COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.1 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat[len(rivals) :]:
            axis.set_axis_off()
        for axis, rival in zip(axes.flat, sorted(rivals), strict=False):
            _draw_curve(axis, runs[runs["optimizer"] == rival], COLOURS[1])
            _draw_curve(axis, runs[runs["optimizer"] == "salera"], COLOURS[0])
            axis.axhline(_CHANCE, color="grey", lw=0.8, ls=":")
            axis.set_title(rival, color=COLOURS[1], fontsize=10, loc="left")
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_yticks([2, 5, 10, 20, 50, 90], [2, 5, 10, 20, 50, 90])
            axis.minorticks_off()
        for axis in axes.flat[max(len(rivals) - _COLUMNS, 0) : len(rivals)]:
            axis.tick_params(labelbottom=True)  # the lowest of each column
        figure.supxlabel("initial learning rate")
        figure.supylabel("test error (%)")
        figure.suptitle("SALERA (blue, in every panel) and its rivals", fontsize=11)
        figure.savefig(path, dpi=130)


def _draw_curve(axis: Axes, runs: pd.DataFrame, colour: str) -> None:
    errors = np.where(runs["failed"], np.maximum(runs["error"], _CHANCE), runs["error"])
    median = pd.Series(errors, runs["learning_rate"]).groupby(level=0).median()
    axis.plot(median.index, median, color=colour, lw=1.8)
    axis.plot(runs["learning_rate"], errors, "o", color=colour, ms=2.5, alpha=0.6)


@click.command()
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder of the results of the grid.  [default: results/runs beside the program]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for README.md and the pictures.  [default: the one above the results]",
)
def report(runs: Path, out: Path | None) -> None:
    """Writes tables and figures about all results of the grid."""
    frame = table(Results(runs)) if any(runs.glob("*.jsonl")) else pd.DataFrame()
    if frame.empty:
        raise click.ClickException(f"there are no results in {runs}: run the grid first.")
    out = out or runs.parent
    out.mkdir(parents=True, exist_ok=True)
    write_report(frame, out)
    click.echo(f"{len(frame)} runs. Report: {out / 'README.md'}")
