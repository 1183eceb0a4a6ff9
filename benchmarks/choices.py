"""Choices on the command line that know what a misspelt one was to be."""

import difflib
from typing import Any

import click


class Choice(click.Choice[str]):
    """`click.Choice`, which lists all valid names, and here the nearest ones once more."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """The message of click, with the question whether another name was meant."""
        message = super().get_invalid_choice_message(value, ctx)
        near = difflib.get_close_matches(str(value), self.choices)
        return f"{message} Did you mean {' or '.join(map(repr, near))}?" if near else message
