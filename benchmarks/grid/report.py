"""`python -m benchmarks report`: tables and figures from the results of the grid, never typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.grid import tables
from benchmarks.grid.frame import PROBLEM, as_frame, compared, curves, of_the_paper
from benchmarks.grid.picture import (
    save_catastrophe,
    save_curves,
    save_dividing_cost,
    save_robustness,
)
from benchmarks.grid.results import Results
from benchmarks.log import LOG, Log, read_log
from benchmarks.paths import COMMITTED, WRITTEN


def write_report(runs: pd.DataFrame, folder: Path, catastrophe: Sequence[Log] = ()) -> None:
    """Writes `README.md` and its pictures into the folder.

    Args:
      runs: those of `as_frame`.
      folder: where to.
      catastrophe: logs of runs over the same minibatches, for Figure 1; one has alarms.
    """
    divisors, gains = runs["divisor"].notna(), runs["gain"].notna()
    by_divisor, by_gain, runs = runs[divisors], runs[gains], runs[~divisors & ~gains]
    parts = [
        "# Results",
        f"Made by `python -m benchmarks report --out {folder}` from the runs in "
        "`benchmarks/results/runs`; `python -m benchmarks grid --out benchmarks/results/runs` "
        "extends them, see its `--help`. Errors are those on the whole test set, in %, as the mean "
        "over the seeds; a run has failed when it is wrong on more than 80 % or its loss is not "
        "finite. A problem is a data set, a model, the size of a minibatch in % of the training "
        "set, and the number of epochs. What has not been run is left empty.",
    ]
    if not runs.empty:
        parts += _overview(runs)
    parts += [*_pictures(runs, by_divisor, folder, catastrophe), *tables.gains(by_gain)]
    for problem, same in runs.groupby(PROBLEM):
        parts += _section(problem, same, folder)
    text = "\n\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _overview(runs: pd.DataFrame) -> list[str]:
    """The tables over all problems."""
    alike = compared(runs)
    return [
        "## The best of each optimizer",
        "Table 1 of the paper: the least error over all settings and initial rates.",
        tables.best_by_problem(runs),
        tables.notes(runs),
        "## One setting for all problems",
        "Table 2 of the paper: the setting of each optimizer, initial rate included, with the "
        "least sum of ranks over the problems on which all its settings have been run, and its "
        "errors. Below, the numbers of the paper's robust SALERA, as far as they are at hand.",
        tables.robust_over_problems(runs),
        tables.notes(runs),
        "## Failed runs",
        "Over all problems of 20 epochs that several optimizers have run, at the initial rates and "
        "settings of the paper, one seed for each.",
        tables.failures(of_the_paper(alike)),
        tables.notes(alike),
    ]


def _section(problem: tuple[Any, ...], runs: pd.DataFrame, folder: Path) -> Iterator[str]:
    """What there is to say of one problem."""
    dataset, model, ratio, epochs = problem
    yield f"## {dataset}, {model}, minibatch {100 * ratio:g} %, epochs: {epochs}"
    yield tables.notes(runs)
    plain, chosen = runs[runs["setting"] == ""], of_the_paper(runs)
    if "salera" in set(plain["optimizer"]):
        picture = f"robustness-{dataset}-{model}-{ratio:g}-{epochs}.png"
        save_robustness(plain, folder / picture)
        yield "Every optimizer at its defaults, by initial learning rate."
        yield f"![Test error by initial learning rate, for every optimizer]({picture})"
        yield tables.by_rate(plain)
        yield "In short: the errors, median over the seeds, at the best and at the worst rate."
        yield tables.over_rates(plain)
    if (chosen["setting"] != "").any():
        yield "The best setting of each optimizer."
        yield tables.best(chosen)
        yield "The setting of each that is best over all initial rates, by the sum of ranks."
        yield tables.robust(chosen)
        yield "Failed runs; the paper's share is that over all its problems."
        yield tables.failures(chosen)
    yield "What has been run; no seconds where several programs shared the device."
    yield tables.complete(runs)


def _pictures(
    runs: pd.DataFrame, measured: pd.DataFrame, folder: Path, catastrophe: Sequence[Log]
) -> Iterator[str]:
    """The figures of the paper, as far as there are results for them."""
    if catastrophe:
        config = catastrophe[0].config
        chosen = config["hyperparameters"]
        save_catastrophe(catastrophe, folder / "catastrophe.png")
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
    lines = curves(of_the_paper(runs))
    if lines:
        save_curves(lines, folder / "curves.png")
        yield "## Test error by epoch"
        yield "Each optimizer at the setting and initial rate that are best on the problem."
        yield "![Test error by epoch](curves.png)"
        yield tables.notes(runs[runs["problem"].isin(lines)])
    save_dividing_cost(measured, folder / "divisor.png")
    yield "## The dividing factor"
    yield (
        "Figure 3 of the paper: the expected cost of dividing the rates by zeta at every alarm, "
        "J = (c + zeta - 1) / ln(zeta) for alarms that cost c (`benchmarks/grid/divisor.py` "
        "derives it), and where it is least"
        + (
            "; beside it the errors of the hard settings, by the divisor that they were run with."
            if len(measured)
            else "."
        )
    )
    yield "![Cost of the dividing factor](divisor.png)"
    if len(measured):
        yield tables.by_divisor(measured)


@click.command()
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=COMMITTED / "runs",
    help="Folder of the results of the grid.  [default: results/runs beside the program]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=WRITTEN / "report",
    show_default=True,
    help="Folder for README.md and the pictures.",
)
def report(runs: Path, out: Path) -> None:
    """Writes tables and figures about all results of the grid.

    Figure 1 is drawn from logs of the training command, if there are some in a folder catastrophe
    beside the results: `train --optimizer alera --optimizer salera --out <results>/../catastrophe`.
    """
    frame = as_frame(Results(runs)) if any(runs.glob("*.jsonl")) else pd.DataFrame()
    if frame.empty:
        raise click.ClickException(f"there are no results in {runs}: run the grid first.")
    out.mkdir(parents=True, exist_ok=True)
    logs = [read_log(log.parent) for log in sorted((runs.parent / "catastrophe").glob(f"*/{LOG}"))]
    write_report(frame, out, logs)
    click.echo(f"{len(frame)} rows of results. Report: {out / 'README.md'}")
