"""`python -m benchmarks report`: tables and figures from the results of the grid, never typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks import figures
from benchmarks.grid import Results, Run
from benchmarks.grid_command import RESULTS
from benchmarks.log import LOG, Log, read_log
from benchmarks.run import FAILED

_PROBLEM = ["dataset", "model", "minibatch_ratio", "epochs"]
_SETTING = ["optimizer", "setting", "learning_rate"]
_HORIZONS = (5, 20)  # epochs after which the paper measures
_WORKS = 5  # %, an error below which a rate counts as one that works
_NOTES = {"cifar10": "CIFAR-10 here is a recompressed copy: compare within this report only."}
# What is at hand of the paper's numbers, in %: failed runs over all its problems, and the test
# error of its robust setting.
_PAPER_FAILURES = {"alera": 18.3, "published-salera": 11.7}
_PAPER_ROBUST = {"mnist m2 0.1 %, 5": 1.87, "mnist m2 0.1 %, 20": 1.68}  # SALERA


def table(results: Results) -> pd.DataFrame:
    """All results, a row for each run after 5 and after 20 epochs, as in the paper.

    A run of another length counts after its last epoch too, one whose learning rate follows a
    schedule only then.

    Args:
      results: those of the grid.

    Returns:
      The fields of `Run`, with the epochs after which it was measured, and with `learning_rate`,
      `setting` (the other hyperparameters, as text), `divisor` (of an alarm, NaN for the default)
      and `gain` (NaN but where it alone was chosen) for the hyperparameters; `problem`, as text;
      `error`, in %, and `errors`, those after each epoch; `failed`, as the paper defines it;
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
        yield from (epochs for epochs in _HORIZONS if epochs < run.epochs)
    yield run.epochs


def _row(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """The first `run.epochs` epochs of a result."""
    chosen = dict(run.hyperparameters)
    rate, divisor = chosen.pop("learning_rate"), 1 / chosen.get("factor", np.nan)
    errors = [100 * error for error in result["test_error"][: run.epochs]]
    lost = result["train_loss"][run.epochs - 1] is None
    return run._asdict() | {
        "problem": _problem(run.dataset, run.model, run.minibatch_ratio, run.epochs),
        "learning_rate": rate,
        "setting": ", ".join(f"{name} {value}" for name, value in chosen.items()),
        "divisor": divisor,
        "gain": chosen["gain"] if set(chosen) == {"gain"} else np.nan,
        "errors": errors,
        "error": errors[-1],
        "failed": lost or errors[-1] > 100 * FAILED,
        "alarms": sum(result["alarms"][: run.epochs]),
        "seconds": result.get("seconds"),
        "device": f"{result['devices']} x {result['device']}, {result['precision']}",
    }


def _problem(dataset: str, model: str, ratio: float, epochs: int) -> str:
    return f"{dataset} {model} {100 * ratio:g} %, {epochs}"


def write_report(runs: pd.DataFrame, folder: Path, catastrophe: Sequence[Log] = ()) -> None:
    """Writes `README.md` and its pictures into the folder.

    Args:
      runs: those of `table`.
      folder: where to.
      catastrophe: logs of runs over the same minibatches, for Figure 1; one has alarms.
    """
    divisors, gains = runs["divisor"].notna(), runs["gain"].notna()
    by_divisor, by_gain, runs = runs[divisors], runs[gains], runs[~divisors & ~gains]
    parts = [
        "# Results",
        "Made by `python -m benchmarks report` from the runs in `runs/`; how to repeat or extend "
        "them: `python -m benchmarks grid --help`. Errors are those on the whole test set, in %, "
        "as the mean over the seeds; a run has failed when it is wrong on more than 80 % or its "
        "loss is not finite. A problem is a data set, a model, the size of a minibatch in % of the "
        "training set, and the number of epochs. What has not been run is left empty.",
    ]
    if not runs.empty:
        parts += _overview(runs)
    parts += [*_pictures(runs, by_divisor, folder, catastrophe), *_gains(by_gain)]
    for problem, same in runs.groupby(_PROBLEM):
        parts += _section(problem, same, folder)
    text = "\n\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _overview(runs: pd.DataFrame) -> list[str]:
    """The tables over all problems."""
    compared = _compared(runs)
    return [
        "## The best of each optimizer",
        "Table 1 of the paper: the least error over all settings and initial rates.",
        _best_by_problem(runs),
        _notes(runs),
        "## One setting for all problems",
        "Table 2 of the paper: the setting of each optimizer, initial rate included, with the "
        "least sum of ranks over the problems on which all its settings have been run, and its "
        "errors. Below, the numbers of the paper's robust SALERA, as far as they are at hand.",
        _robust_over_problems(runs),
        _notes(runs),
        "## Failed runs",
        "Over all problems of 20 epochs that several optimizers have run, at the initial rates and "
        "settings of the paper, one seed for each.",
        _failures(_of_the_paper(compared)),
        _notes(compared),
    ]


def _notes(runs: pd.DataFrame) -> str:
    """What must be said beside numbers from the data sets of these runs."""
    return " ".join(note for name, note in _NOTES.items() if name in set(runs["dataset"]))


def _compared(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of 20 epochs and the first seed, of problems with more than one optimizer."""
    long = runs[(runs["epochs"] == _HORIZONS[-1]) & (runs["seed"] == 0)]
    return long[long.groupby("problem")["optimizer"].transform("nunique") > 1]


def _of_the_paper(runs: pd.DataFrame, by: Sequence[str] = ("optimizer", "problem")) -> pd.DataFrame:
    """Without the runs of an optimizer at its defaults, where it was run at chosen settings."""
    has_settings = (runs["setting"] != "").groupby([runs[name] for name in by]).transform("any")
    return runs[(runs["setting"] != "") | ~has_settings]


def _section(problem: tuple[Any, ...], runs: pd.DataFrame, folder: Path) -> Iterator[str]:
    """What there is to say of one problem."""
    dataset, model, ratio, epochs = problem
    yield f"## {dataset}, {model}, minibatch {100 * ratio:g} %, epochs: {epochs}"
    yield _notes(runs)
    plain, chosen = runs[runs["setting"] == ""], _of_the_paper(runs)
    if "salera" in set(plain["optimizer"]):
        picture = f"robustness-{dataset}-{model}-{ratio:g}-{epochs}.png"
        figures.save_robustness(plain, folder / picture)
        yield "Every optimizer at its defaults, by initial learning rate."
        yield f"![Test error by initial learning rate, for every optimizer]({picture})"
        yield _by_rate(plain)
        yield "In short: the errors, median over the seeds, at the best and at the worst rate."
        yield _over_rates(plain)
    if (chosen["setting"] != "").any():
        yield "The best setting of each optimizer."
        yield _best(chosen)
        yield "The setting of each that is best over all initial rates, by the sum of ranks."
        yield _robust(chosen)
        yield "Failed runs; the paper's share is that over all its problems."
        yield _failures(chosen)
    yield "What has been run; no seconds where several programs shared the device."
    yield _complete(runs)


def _pictures(
    runs: pd.DataFrame, measured: pd.DataFrame, folder: Path, catastrophe: Sequence[Log]
) -> Iterator[str]:
    """The figures of the paper, as far as there are results for them."""
    if catastrophe:
        config = catastrophe[0].config
        chosen = config["hyperparameters"]
        figures.save_catastrophe(catastrophe, folder / "catastrophe.png")
        yield "## A catastrophe, with and without the guard"
        yield (
            f"Figure 1 of the paper: {config['dataset']}, {config['model']}, initial rate "
            f"{chosen['learning_rate']:g}, alpha {chosen['alpha']:g}, gain {chosen['gain']:g}, "
            f"std {chosen['std']}, seed {config['seed']}. After "
            f"{config['epochs']} epochs "
            + ", ".join(
                f"{log.config['optimizer']} is wrong on {100 * log.epochs[-1]['test_error']:.2f} %"
                for log in catastrophe
            )
            + "."
        )
        yield "![Loss and learning rate with and without the guard](catastrophe.png)"
    curves = _curves(_of_the_paper(runs))
    if curves:
        figures.save_curves(curves, folder / "curves.png")
        yield "## Test error by epoch"
        yield "Each optimizer at the setting and initial rate that are best on the problem."
        yield "![Test error by epoch](curves.png)"
        yield _notes(runs[runs["problem"].isin(curves)])
    figures.save_dividing_cost(measured, folder / "divisor.png")
    yield "## The dividing factor"
    yield (
        "Figure 3 of the paper: the expected cost of dividing the rates by zeta at every alarm, "
        "J = (c + zeta - 1) / ln(zeta) for alarms that cost c (`benchmarks/figures.py` derives "
        "it), and where it is least"
        + (
            "; beside it the errors of the hard settings, by the divisor that they were run with."
            if len(measured)
            else "."
        )
    )
    yield "![Cost of the dividing factor](divisor.png)"
    if len(measured):
        yield _by_divisor(measured)


def _curves(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By problem of 20 epochs and optimizer, the errors by epoch at the best setting and rate."""
    long = runs[(runs["epochs"] == _HORIZONS[-1]) & ~runs["failed"]]
    best = long.loc[long.groupby(["problem", "optimizer"])["error"].idxmin()]
    return {
        str(problem): dict(zip(rows["optimizer"], rows["errors"], strict=True))
        for problem, rows in best.groupby("problem")
        if len(rows) > 1
    }


def _numbers(frame: pd.DataFrame) -> str:
    """A table of errors, with two decimals, and counts: nothing where there is none."""

    def shown(cell: Any) -> str:
        if isinstance(cell, float):
            return "" if np.isnan(cell) else f"{cell:.2f}"
        return str(cell)

    return str(frame.map(shown).to_markdown(disable_numparse=True))


def _settings(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    cells = runs.groupby(list(by), dropna=False)
    return cells.agg(
        error=("error", "mean"),
        seeds=("seed", "nunique"),
        failed=("failed", "sum"),
        alarms=("alarms", "median"),
    ).reset_index()


def _best_by_problem(runs: pd.DataFrame) -> str:
    cells = _settings(runs, [*_PROBLEM, "problem", *_SETTING])
    best = cells.groupby(["optimizer", "problem"])["error"].min().unstack()
    return _numbers(best[cells.sort_values(_PROBLEM)["problem"].unique()])


def _robust_over_problems(runs: pd.DataFrame) -> str:
    """The setting of each optimizer with the least sum of ranks, and its errors."""
    cells = _settings(_of_the_paper(runs, ["optimizer"]), [*_PROBLEM, "problem", *_SETTING])
    problems = list(cells.sort_values(_PROBLEM)["problem"].unique())
    errors = cells.pivot(index=_SETTING, columns="problem", values="error")[problems]
    best = []
    for _, same in errors.groupby(level="optimizer"):
        complete = same[[problem for problem in problems if same[problem].notna().all()]]
        if complete.size:
            best.append(same.loc[[complete.rank().sum(axis=1).idxmin()]])
    shown = pd.concat(best).reset_index(level=["setting", "learning_rate"])
    shown["learning_rate"] = shown["learning_rate"].map("{:g}".format)
    shown.loc["SALERA in the paper"] = pd.Series(_PAPER_ROBUST).reindex(shown.columns)
    return _numbers(shown)


def _by_rate(runs: pd.DataFrame) -> str:
    """Mean error by optimizer and rate; the worst seed counts where one has failed."""
    cells = runs.groupby(["optimizer", "learning_rate"])
    shown = cells["error"].mean().map("{:.2f}".format).where(~cells["failed"].any(), "failed")
    wide = shown.unstack()
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return _numbers(wide)


def _over_rates(runs: pd.DataFrame) -> str:
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


def _best(runs: pd.DataFrame) -> str:
    """The least error of each optimizer, and where."""
    cells = _settings(runs, _SETTING)
    best = cells.loc[cells.groupby("optimizer")["error"].idxmin()].sort_values("error")
    best["learning_rate"] = best["learning_rate"].map("{:g}".format)
    return _numbers(best.set_index("optimizer"))


def _robust(runs: pd.DataFrame) -> str:
    """The setting with the least sum of ranks over the initial rates."""
    cells = _settings(runs, _SETTING)
    cells["rank"] = cells.groupby(["optimizer", "learning_rate"])["error"].rank()
    sums = cells.groupby(["optimizer", "setting"])["rank"].sum().reset_index()
    robust = sums.loc[sums.groupby("optimizer")["rank"].idxmin(), ["optimizer", "setting"]]
    chosen = cells.merge(robust, on=["optimizer", "setting"])
    wide = chosen.pivot(index=["optimizer", "setting"], columns="learning_rate", values="error")
    wide.columns = [f"{rate:g}" for rate in wide.columns]
    return _numbers(wide.reset_index().set_index("optimizer"))


def _failures(runs: pd.DataFrame) -> str:
    if runs.empty:
        return ""
    cells = runs.groupby("optimizer").agg(
        **{"runs": ("failed", "size"), "failed": ("failed", "sum"), "failed, %": ("failed", "mean")}
    )
    cells["failed, %"] *= 100
    paper = [_PAPER_FAILURES.get(name, np.nan) for name in cells.index]
    return _numbers(cells.assign(**{"the paper's, %": paper}))


def _by_divisor(runs: pd.DataFrame) -> str:
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


def _gains(runs: pd.DataFrame) -> Iterator[str]:
    """For each optimizer of the slice of gains, the errors from its best rate to its worst."""
    if runs.empty:
        return
    yield "## The gain"
    yield (
        "The defaults, but for the gain: the errors at the best and at the worst initial rate, as "
        "the median over the seeds, and in parentheses the most alarms of a run."
    )
    by = ["optimizer", *_PROBLEM, "problem", "gain", "learning_rate"]
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
    rows = [*_PROBLEM, "problem", "rates", "seeds"]
    for optimizer, same in cells.reset_index().groupby("optimizer"):
        wide = same.pivot(index=rows, columns="gain", values="shown")
        wide.columns = [f"{gain:.3g}" for gain in wide.columns]
        wide = wide.reset_index().drop(columns=_PROBLEM).set_index("problem")
        yield _numbers(wide.rename_axis(str(optimizer)).fillna(""))
    yield _notes(runs)


def _complete(runs: pd.DataFrame) -> str:
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
    """Writes tables and figures about all results of the grid.

    Figure 1 is drawn from logs of the training command, if there are some in a folder catastrophe
    beside the results: `train --optimizer alera --optimizer salera --out <results>/../catastrophe`.
    """
    frame = table(Results(runs)) if any(runs.glob("*.jsonl")) else pd.DataFrame()
    if frame.empty:
        raise click.ClickException(f"there are no results in {runs}: run the grid first.")
    out = out or runs.parent
    out.mkdir(parents=True, exist_ok=True)
    logs = [read_log(log.parent) for log in sorted((runs.parent / "catastrophe").glob(f"*/{LOG}"))]
    write_report(frame, out, logs)
    click.echo(f"{len(frame)} rows of results. Report: {out / 'README.md'}")
