"""The command `python -m benchmarks train` and its smallest data, for several test files."""

import jax
from click.testing import CliRunner, Result

from benchmarks import data, training
from benchmarks.__main__ import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def digits_on_device() -> training.Examples:
    return training.Examples(*map(jax.numpy.asarray, data.load("digits").train))
