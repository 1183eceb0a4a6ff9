"""`python -m benchmarks report`: tables and figures from the results of the grid, never typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.choices import out_option
from benchmarks.grid import paper, tables
from benchmarks.grid.frame import PROBLEM, as_frame, compared, curves, of_figure_2, of_the_paper
from benchmarks.grid.picture import (
    save_catastrophe,
    save_curves,
    save_dividing_cost,
    save_figure_2,
    save_robustness,
)
from benchmarks.grid.results import Results
from benchmarks.log import LOG, Log, read_log
from benchmarks.paths import COMMITTED


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
        paper.summary(_cells(runs)),
        "Made by `python -m benchmarks report` from the runs in "
        "`benchmarks/results/runs`; `python -m benchmarks grid --out benchmarks/results/runs` "
        "extends them, see its `--help`. Errors are those on the whole test set, in %, as the mean "
        "over the seeds; a run has failed when it is wrong on more than 80 % or its loss is not "
        "finite. A problem is a data set, a model, the size of a minibatch in % of the training "
        "set, and the number of epochs. What has not been run is left empty.",
        "**The rows.** `salera_adamw`, `salera`, `alera` and `ag_adam` are this library's, with "
        "its own law, as they are today. `paper-salera`, `paper-alera`, `paper-ag_adam` and "
        "`spalera` have the paper's law; those with a guard were run under an earlier one of this "
        "library. `published-salera` is SALERA as its authors' code runs it. The others are "
        "Optax's.",
    ]
    if not runs.empty:
        parts += [*_beside_the_paper(runs), *_overview(runs)]
    parts += [*_pictures(runs, by_divisor, folder, catastrophe), *tables.gains(by_gain)]
    for problem, same in runs.groupby(PROBLEM):
        parts += _section(problem, same, folder)
    text = "\n\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _cells(runs: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([paper.cells(runs, table) for table in paper.SETTINGS])


def _beside_the_paper(runs: pd.DataFrame) -> Iterator[str]:
    """Its tables and ours, if ours have anything to compare."""
    cells = _cells(runs)
    if not paper.summary(cells):
        return
    yield "## Beside the paper"
    yield (
        "The numbers of the paper are in `benchmarks/grid/paper.csv`. SALERA is "
        "`published-salera`, as its authors' code runs it: the parameters do not go back at an "
        "alarm. The others are `paper-alera`, `paper-ag_adam`, `spalera` and Optax's; SPALERA "
        "has this library's detector, and goes back. Ours are in float32, the paper's in float64. "
        "CIFAR-10 here is a copy compressed anew as JPEG: what its cells differ by may be the data."
    )
    yield paper.agreement(runs, cells)
    yield (
        "The paper takes the best of the settings, initial rates and minibatches (1 % and 0.1 %) "
        "of its grid. The best of less of it, as ours often is, lies higher; the best of many "
        "single runs, in place of means of five, lies lower by chance."
    )
    for table, what in (
        ("1", "the best of all settings."),
        ("2", "the settings that the paper calls robust, at the best initial rate."),
    ):
        yield f"### Table {table}, cell by cell"
        yield (
            f"Test error after 5 and after 20 epochs, in %: {what} Beside each mean the deviation "
            "over the runs; of ours, how many runs, and of which minibatch. A cell agrees when "
            "ours lies within two of the paper's deviations; what has not been run is empty."
        )
        yield paper.side_by_side(cells[cells["table"] == table])
        yield "CIFAR-10 here is a recompressed copy."
    beyond = paper.beyond(runs)
    if beyond:
        yield "### Beyond the paper"
        yield (
            "SALERA with the rollback that the authors' code lacks, the best of all settings that "
            "have been run, and `salera_adamw` with no argument, beside Table 1."
        )
        yield beyond


def _overview(runs: pd.DataFrame) -> list[str]:
    """The tables over all problems."""
    alike = compared(runs)
    return [
        "## The best of each optimizer",
        "As Table 1 of the paper: the least error over all settings and initial rates.",
        tables.best_by_problem(runs),
        tables.notes(runs),
        "## One setting for all problems",
        "As Table 2 of the paper: the setting of each optimizer, initial rate included, with the "
        "least sum of ranks over the problems on which all its settings have been run, and its "
        "errors.",
        tables.robust_over_problems(runs),
        tables.notes(runs),
        "## Failed runs",
        "Over all problems of 20 epochs that several optimizers have run, at the initial rates and "
        "settings of the paper, one seed for each.",
        tables.failures(of_the_paper(alike)),
        tables.notes(alike),
        *_same_range(paper.whole_grids(runs)),
    ]


def _same_range(runs: pd.DataFrame) -> Iterator[str]:
    """Where the failures come from, over whole grids."""
    if runs.empty:
        return
    yield "### Over the paper's range"
    yield (
        "Only the problems on which all settings and initial rates of the paper have been run, "
        "all of them together."
    )
    yield tables.failures(runs)
    yield "Where the failed runs come from: the problem, and the initial learning rate."
    yield tables.failures_by(runs, "problem")
    yield tables.failures_by(runs, "learning_rate")
    yield tables.notes(runs)


def _section(problem: tuple[Any, ...], runs: pd.DataFrame, folder: Path) -> Iterator[str]:
    """What there is to say of one problem."""
    dataset, model, ratio, epochs = problem
    yield f"## {dataset}, {model}, minibatch {100 * ratio:g} %, epochs: {epochs}"
    yield tables.notes(runs)
    plain, chosen = runs[runs["setting"] == ""], of_the_paper(runs)
    if "paper-salera" in set(plain["optimizer"]):
        picture = f"robustness-{dataset}-{model}-{ratio:g}-{epochs}.png"
        save_robustness(plain, folder / picture)
        yield "Every optimizer at its defaults, by initial learning rate; see **The rows** above."
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
    yield from _figure_2(of_figure_2(runs), folder)
    save_dividing_cost(measured, folder / "divisor.png")
    yield "## The dividing factor"
    yield (
        "Figure 3 of the paper: the expected cost of dividing the rate by zeta at every alarm, "
        "J of its Eq. 12 as printed, and where it is least; dashed the same "
        "with true means for the two integrals of Appendix C (`benchmarks/grid/divisor.py`)"
        + (
            "; beside it the errors of the hard settings, by the divisor that they were run with."
            if len(measured)
            else "."
        )
    )
    yield "![Cost of the dividing factor](divisor.png)"
    if len(measured):
        yield tables.by_divisor(measured)


def _figure_2(runs: pd.DataFrame, folder: Path) -> Iterator[str]:
    """How the three of the paper's figure learn, if they have been run."""
    if runs.empty:
        return
    save_figure_2(runs, folder / "figure2.png")
    yield "## Error and loss"
    yield (
        "Figure 2 of the paper: CIFAR-10, model M4, each optimizer at the best of the settings "
        "that have been run: "
        + "; ".join(
            f"{run['optimizer']} {run['setting']}, initial rate {run['learning_rate']:g}, "
            f"minibatch {100 * run['minibatch_ratio']:g} %, is wrong on {run['error']:.2f} % "
            "in the end"
            for run in runs.to_dict("records")
        )
        + ". The minibatch error is the mean over an epoch."
    )
    yield "![Test error, test loss and minibatch error by epoch](figure2.png)"


@click.command()
@click.option(
    "--runs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=COMMITTED / "runs",
    help="Folder of the results of the grid.  [default: results/runs beside the program]",
)
@out_option("report", "Folder for README.md and the pictures.")
def report(runs: Path, out: Path) -> None:
    """Writes tables and figures about all results of the grid.

    Figure 1 is drawn from logs of the training command, if there are some in a folder catastrophe
    beside the results: `train --optimizer paper-alera --optimizer paper-salera --out
    <results>/../catastrophe`.
    """
    frame = as_frame(Results(runs)) if any(runs.glob("*.jsonl")) else pd.DataFrame()
    if frame.empty:
        raise click.ClickException(f"there are no results in {runs}: run the grid first.")
    out.mkdir(parents=True, exist_ok=True)
    logs = [read_log(log.parent) for log in sorted((runs.parent / "catastrophe").glob(f"*/{LOG}"))]
    write_report(frame, out, logs)
    click.echo(f"{len(frame)} rows of results. Report: {out / 'README.md'}")
