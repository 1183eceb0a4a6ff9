"""`python -m benchmarks grid`: slices of the paper's space of experiments, resumable."""

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import data, models, optimizers
from benchmarks.choices import Choice, data_dir_option, out_option
from benchmarks.grid.measure import run_grid
from benchmarks.grid.results import Results
from benchmarks.grid.space import SLICES, space


@click.command(context_settings={"show_default": True})
@click.option("--slice", "slice_name", type=Choice(list(SLICES)), default="defaults")
@click.option("--dataset", type=Choice(data.DATASETS), default="mnist")
@data_dir_option("mnist or cifar10", "them")
@click.option("--model", type=Choice(list(models.MODELS)), default="m2")
@click.option(
    "--optimizer",
    "names",
    type=Choice(list(optimizers.OPTIMIZERS)),
    multiple=True,
    help="May be given several times.  [default: all of the slice]",
)
@click.option(
    "--learning-rate",
    "learning_rates",
    type=click.FloatRange(min=0),
    multiple=True,
    help="Initial one, may be given several times.  [default: all of the slice]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=5)
@click.option("--minibatch-ratio", type=click.FloatRange(0, 1, min_open=True), default=0.01)
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="How many, from 0 on.")
@out_option("grid", "Folder of the results; runs that are there already are not run again.")
def grid(
    slice_name: str,
    dataset: str,
    data_dir: Path | None,
    model: str,
    names: Sequence[str],
    learning_rates: Sequence[float],
    epochs: int,
    minibatch_ratio: float,
    seeds: int,
    out: Path,
) -> None:
    """Does all runs of a slice of the experiments, many at once.

    Each run that ends adds one line of JSON to the results, so an interrupted grid goes on where it
    was. paper: the paper's whole grid. robust: its robust settings, and those of its rivals.
    defaults: every optimizer at its defaults, over seven decades of initial learning rates.
    gain: paper-salera, paper-alera and spalera at their defaults, but for larger and larger gains.
    divisor: paper-salera where it explodes most often, with several dividing factors.
    """
    try:
        runs = list(
            space(
                slice_name,
                dataset,
                model,
                minibatch_ratio=minibatch_ratio,
                epochs=epochs,
                seeds=seeds,
                names=names,
                learning_rates=learning_rates,
            )
        )
        new = run_grid(runs, data.load(dataset, data_dir), Results(out))
    except (ValueError, OSError, data.DataError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{new} of {len(runs)} runs were new. Results: {out}")
