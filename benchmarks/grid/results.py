"""The results of the grid, on disk: one line of JSON for each run that has ended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.log import append_line, read_lines
from benchmarks.run import Run


class Results:
    """The runs that have ended, in a folder, one file per data set and model.

    Args:
      folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[tuple[Run, dict[str, Any]]]:
        """Every run with what `add` was given for it last; a line cut short is left out."""
        found = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for record in read_lines(path):
                record["hyperparameters"] = tuple(record["hyperparameters"].items())
                found[Run(*(record.pop(name) for name in Run._fields))] = record
        return iter(found.items())

    def add(self, run: Run, result: dict[str, Any]) -> None:
        """Adds one line, at once on disk; numbers that are not finite become null."""
        append_line(self.folder / f"{run.dataset}-{run.model}.jsonl", run.record | result)
