"""`python -m benchmarks train`: training runs, their logs and their pictures."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import data, models, optimizers
from benchmarks.choices import Choice, data_dir_option
from benchmarks.log import LOG, read_log
from benchmarks.paths import WRITTEN
from benchmarks.run import Run, ordered
from benchmarks.train.measure import Result, Trainer
from benchmarks.train.picture import save_comparison, save_picture


class _Finite(click.FloatRange):
    """A range of numbers to which NaN and infinity do not belong."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


_FROM_ZERO = _Finite(min=0)
_BELOW_ONE = _Finite(min=0, max=1, max_open=True)
_HYPERPARAMETERS: list[Callable[[Any], Any]] = [
    click.option("--learning-rate", type=_FROM_ZERO, help="Initial learning rate."),
    click.option("--alpha", type=float, help="ALERA: memory rate of the path, in (0, 1]."),
    click.option(
        "--gain", type=float, help="ALERA: how fast the rates adapt; its unit is the law's."
    ),
    click.option(
        "--groups", type=Choice(list(optimizers.GROUPS)), help="ALERA: what shares one rate."
    ),
    click.option("--std", type=Choice(["exact", "authors"]), help="ALERA: deviation of the path."),
    click.option("--factor", type=float, help="Guard: an alarm multiplies all rates by this."),
    click.option("--rollback/--no-rollback", default=None, help="Guard: go back on an alarm."),
    click.option(
        "--reset-path/--no-reset-path", default=None, help="Guard: forget the path on an alarm."
    ),
    click.option("--detector", type=Choice(list(optimizers.DETECTORS)), help="Guard: which test."),
    click.option("--momentum", type=_BELOW_ONE, help="Momentum of the direction."),
    click.option("--b1", type=_BELOW_ONE, help="Adam: memory of the mean gradient."),
    click.option("--b2", type=_BELOW_ONE, help="Adam: memory of the squared gradient."),
    click.option(
        "--weight-decay",
        type=_FROM_ZERO,
        help="Weight decay: decoupled for Adam, for SGD an L2 penalty.",
    ),
]


def _hyperparameter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that belong to some optimizers only."""
    for option in reversed(_HYPERPARAMETERS):
        command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.option(
    "--dataset",
    type=Choice(data.DATASETS),
    help="digits, mnist, cifar10: images. adding: sequences of pairs of a value and a marker; "
    "the sum of the two marked values is to be found, to within 0.08.  "
    "[default: adding for rnn, else digits]",
)
@data_dir_option("mnist or cifar10", "them")
@click.option(
    "--model",
    type=Choice(list(models.MODELS)),
    help="mlp: small; m0, m2, m4: the paper's, of no and of two hidden layers, and convolutional "
    "(mnist, cifar10); m2b, m4b: with batch normalization; rnn: recurrent (GRU).  "
    "[default: mlp for digits, rnn for adding, else m2]",
)
@click.option(
    "--optimizer",
    "names",
    type=Choice(list(optimizers.OPTIMIZERS)),
    multiple=True,
    default=["salera_adamw"],
    help="Several, each with this option, are run one after the other and drawn together. paper-: "
    "by the paper's law; published-: as its authors' code; guarded-: with the guard.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=20)
@click.option(
    "--minibatch-ratio",
    type=_Finite(min=0, max=1, min_open=True),
    default=0.01,
    help="Size of a minibatch over the size of the training set.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for log.jsonl, training.png and TensorBoard's event file; an earlier run there is "
    "overwritten. Several optimizers have a folder each inside, beside comparison.png.  "
    "[default: one in runs/train/ named after the run]",
)
@_hyperparameter_options
def train(
    dataset: str | None,
    data_dir: Path | None,
    model: str | None,
    names: Sequence[str],
    epochs: int,
    minibatch_ratio: float,
    seed: int,
    out: Path | None,
    **hyperparameters: Any,
) -> None:
    """Trains a model, and writes a log and a picture of the run.

    Hyperparameters that are not given have the optimizer's own defaults. With several optimizers,
    those that are given go to all that take them; the seed and the data are the same for all.
    """
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    names = list(dict.fromkeys(names))
    dataset = dataset or models.default_dataset(model)
    try:
        configs = [
            Run(
                dataset=dataset,
                model=model or models.default_model(dataset),
                optimizer=name,
                hyperparameters=ordered(values),
                epochs=epochs,
                minibatch_ratio=minibatch_ratio,
                seed=seed,
            )
            for name, values in zip(names, optimizers.hyperparameters(names, given), strict=True)
        ]
        out = out or WRITTEN / "train" / _name(configs, given)
        folders = [out / name for name in names] if len(names) > 1 else [out]
        with _made(folders):  # before the data are loaded: they may be refused
            examples = data.load(dataset, data_dir)
            trainers = [Trainer(config, examples) for config in configs]
            for trainer, folder in zip(trainers, folders, strict=True):
                _train_one(trainer, folder)
    except (ValueError, OSError, data.DataError) as error:
        raise click.ClickException(str(error)) from error
    if len(folders) > 1:
        picture = out / "comparison.png"
        save_comparison([read_log(folder) for folder in folders], picture)
        click.echo(f"Together: {picture}")


@contextlib.contextmanager
def _made(folders: Sequence[Path]) -> Iterator[None]:
    """Makes the folders; if what follows fails, those of them that are empty go again."""
    new = {path for folder in folders for path in (folder, *folder.parents) if not path.exists()}
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:  # an interruption as well
        for path in sorted(new, reverse=True):  # what is inside comes first
            with contextlib.suppress(OSError):  # not empty, or not made
                path.rmdir()
        raise


def _train_one(trainer: Trainer, folder: Path) -> None:
    """Does one run, draws it, and tells how it went."""
    config, start = trainer.config, time.perf_counter()
    try:
        result = trainer.run(folder)
    except KeyboardInterrupt:
        click.echo(f"{config.optimizer} interrupted. Its log so far: {folder / LOG}", err=True)
        raise
    picture = folder / "training.png"
    save_picture(read_log(folder), picture)
    click.echo(
        f"{_summary(config, result, time.perf_counter() - start)} "
        f"Log: {folder / LOG}  Picture: {picture}"
    )


def _name(configs: Sequence[Run], given: dict[str, Any]) -> str:
    """A folder for every configuration, or for every set of them that differ in the optimizer."""
    first = configs[0]
    names = "+".join(config.optimizer for config in configs)
    rates = dict.fromkeys(
        f"{dict(config.hyperparameters)['learning_rate']:g}" for config in configs
    )
    chosen = "".join(f"-{key}{v}" for key, v in sorted(given.items()) if key != "learning_rate")
    return (
        f"{first.dataset}-{first.model}-{names}-{'+'.join(rates)}{chosen}"
        f"-ratio{first.minibatch_ratio:g}-epochs{first.epochs}-seed{first.seed}"
    )


def _summary(config: Run, result: Result, seconds: float) -> str:
    """The line at the end, for people."""
    return (
        f"{config.optimizer} on {config.dataset}: {result.verdict}"
        f"test error {100 * result.test_error:.2f} % after {_count(config.epochs, 'epoch')} "
        f"({_count(result.steps, 'step')}, {_count(result.alarms, 'alarm')}) in {seconds:.1f} s."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
