"""What the command lines share: options, and choices that know what a misspelt one was to be."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks.paths import WRITTEN

Option = Callable[[Any], Any]


def out_option(command: str, text: str) -> Option:
    """`--out`, a folder of the command's own unless another one is given."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=WRITTEN / command,
        show_default=True,
        help=text,
    )


def data_dir_option(names: str, them: str) -> Option:
    """`--data-dir`, which holds the data sets of these names."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help=f"TFDS directory that has {names}; only read. Without it TFDS downloads {them}.",
    )


class Choice(click.Choice[str]):
    """`click.Choice`, which lists all valid names, and here the nearest ones once more."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The message of click, with the question whether another name was meant."""
        message = super().get_invalid_choice_message(value, ctx)
        near = difflib.get_close_matches(str(value), self.choices)
        return f"{message} Did you mean {' or '.join(map(repr, near))}?" if near else message
