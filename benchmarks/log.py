"""The log of a run: JSON lines, the configuration first, then steps and epochs as they happen."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np


class Log(NamedTuple):
    """A log that was read: one dictionary a line, without its `kind`."""

    config: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]


class LogWriter:
    """Writes the lines of a log; use it in a `with` statement.

    Args:
      path: the file; what it held before is lost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        """Adds one line per record, at once on disk; numbers that are not finite become null."""
        for record in records:
            line = json.dumps({"kind": kind, **_plain(record)}, allow_nan=False)
            self._file.write(line + "\n")
        self._file.flush()


def read_log(path: Path) -> Log:
    """Reads what `LogWriter` wrote; a number that was not finite is None."""
    lines: dict[str, list[dict[str, Any]]] = {"config": [], "step": [], "epoch": []}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        lines[line.pop("kind")].append(line)
    return Log(lines["config"][0], lines["step"], lines["epoch"])


def _plain(value: Any) -> Any:
    """Turns NumPy scalars into JSON's numbers, with no more digits than their type has."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):  # of no dimensions
        value = value[()]
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "bui" else float(str(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
