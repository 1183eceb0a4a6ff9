"""The log of a run: the configuration first, then steps and epochs as they happen.

All of it as JSON lines, and the numbers as event files for TensorBoard too.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from tensorboardX import FileWriter
from tensorboardX.proto.summary_pb2 import Summary

LOG = "log.jsonl"
_EVENTS = ".salera_optax"  # the end of the event files' names, to tell them from those of others
_FLUSH = 5  # seconds until TensorBoard sees a step


class Log(NamedTuple):
    """A log that was read: one dictionary a line, without its `kind`."""

    config: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]


class LogWriter:
    """Writes the lines of a log; use it in a `with` statement.

    Args:
      folder: where the files go; those of an earlier log there are lost.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"*.tfevents.*{_EVENTS}"):
            earlier.unlink()
        self._file = (folder / LOG).open("w", encoding="utf-8")
        self._events = FileWriter(folder, flush_secs=_FLUSH, filename_suffix=_EVENTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        """Adds one line per record, at once on disk; numbers that are not finite become null.

        TensorBoard gets the numbers of the records that have a `step`, not finite or not.
        """
        for record in records:
            if "step" in record:
                # All numbers in one event: `SummaryWriter.add_scalar` makes an event of each, and
                # takes as long as the training.
                values = [Summary.Value(tag=t, simple_value=x) for t, x in _scalars(kind, record)]
                self._events.add_summary(Summary(value=values), record["step"])
            line = json.dumps({"kind": kind, **plain(record)}, allow_nan=False)
            self._file.write(line + "\n")
        self._file.flush()


def read_log(folder: Path) -> Log:
    """Reads what `LogWriter` wrote; a number that was not finite is None."""
    lines: dict[str, list[dict[str, Any]]] = {"config": [], "step": [], "epoch": []}
    for text in (folder / LOG).read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        lines[line.pop("kind")].append(line)
    return Log(lines["config"][0], lines["step"], lines["epoch"])


def alarms_of(log: Log) -> npt.NDArray[np.int64]:
    """The steps that raised an alarm."""
    return np.array([line["step"] for line in log.steps if line["alarm"]], dtype=np.int64)


def losses_of(log: Log) -> npt.NDArray[np.float64]:
    """The minibatch losses; NaN where one cannot be drawn on a logarithmic scale."""
    losses = np.array([line["loss"] for line in log.steps], dtype=np.float64)
    return np.where(losses > 0, losses, np.nan)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Adds one line of JSON, at once on disk; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(record), allow_nan=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else "\n" + line  # behind a line cut short
        file.write(line.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads what `append_line` wrote; a line cut short is left out, as is a file not there."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # killed while it was written
            lines.append(json.loads(text))
    return lines


def _scalars(kind: str, record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The tags and numbers for TensorBoard, which makes a section of all up to the first slash."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(key, value)
        elif key not in {"step", "epoch"}:
            yield f"{kind}/{key}", float(value)


def plain(value: Any) -> Any:
    """Turns NumPy scalars into JSON's numbers, with no more digits than their type has."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):  # of no dimensions
        value = value[()]
    if isinstance(value, np.generic):
        value = value.item() if value.dtype.kind in "bui" else float(str(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
