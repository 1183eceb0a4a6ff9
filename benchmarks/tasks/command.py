"""`python -m benchmarks tasks`: every optimizer on eight small tasks, from six rates each."""

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.choices import Choice, out_option
from benchmarks.log import read_lines
from benchmarks.tasks.contenders import CONTENDERS
from benchmarks.tasks.measure import RESULTS, run_all, runs_of
from benchmarks.tasks.picture import save_picture
from benchmarks.tasks.scores import curves
from benchmarks.tasks.suite import TASKS
from benchmarks.tasks.tables import write_tables


@click.command(context_settings={"show_default": True})
@click.option(
    "--only",
    type=Choice(list(TASKS)),
    multiple=True,
    help="May be given several times.  [default: all tasks]",
)
@click.option(
    "--optimizer",
    "names",
    type=Choice(list(CONTENDERS)),
    multiple=True,
    help="May be given several times.  [default: all]",
)
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="How many, from 0 on.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Of every run, to try it out.  [default: the task's]",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=2, help="Programs side by side, a core each."
)
@out_option(
    "tasks",
    "Folder for tasks.jsonl, tasks.md and tasks.png; runs that are there are not run again.",
)
def tasks(
    only: Sequence[str],
    names: Sequence[str],
    seeds: int,
    steps: int | None,
    workers: int,
    out: Path,
) -> None:
    """Compares optimizers by what one configuration does on eight small tasks, from six rates.

    Each run that ends adds one line of JSON to the results, so an interrupted comparison goes on
    where it was. Tables and picture are of all results in the folder.
    """
    runs = runs_of(only or TASKS, names or CONTENDERS, seeds, steps)
    new = run_all(runs, out, workers)
    measured = curves(read_lines(out / RESULTS))
    write_tables(measured, out / "tasks.md")
    save_picture(measured, out / "tasks.png")
    click.echo(f"{new} of {len(runs)} runs were new.")
    click.echo(f"Tables: {out / 'tasks.md'}  Picture: {out / 'tasks.png'}")
