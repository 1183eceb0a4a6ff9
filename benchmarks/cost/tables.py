"""The tables, as Markdown."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.markdown import markdown

_OURS = ("salera_adamw", "page_hinkley(adam)", "salera", "alera")
_LEGEND = (
    "**step** and **update** (with gradients that lie in memory): time divided by Adam's; **by "
    "`tx.update`** and `optax.apply_updates`, and **at an alarm**: a step divided by Adam's step; "
    "**floor**: the least time, bytes that the update must move / bandwidth; **traffic/floor**: "
    "bytes that it moves, as XLA counts them / bytes that it must move; **state** and "
    "**temporaries** of the step: in copies of the parameters."
)


def optimizer_table(result: dict[str, Any]) -> pd.DataFrame:
    """The costs of every optimizer, for people: see the help of the command."""
    rows = pd.DataFrame(result["optimizers"]).set_index("optimizer")
    floor = rows["floor_bytes"] / result["bandwidth"]
    table = pd.DataFrame(
        {
            "step": rows["step_ratio"],
            "step, ms": 1e3 * rows["step_seconds"],
            "by `tx.update`": rows.get("chain_ratio"),
            "at an alarm": rows["alarm_ratio"],
            "update": rows["update_ratio"],
            "update, ms": 1e3 * rows["update_seconds"],
            "floor, ms": 1e3 * floor,
            "update/floor": rows["update_seconds"] / floor,
            "traffic/floor": rows.get("traffic_bytes", np.nan) / rows["floor_bytes"],
            "state": rows["state"],
            "temporaries": rows["temporaries"],
        },
        index=rows.index,
    )
    return table.dropna(axis="columns", how="all")


def scaling_table(rows: list[dict[str, Any]], value: str) -> pd.DataFrame:
    """One value of the scaling, optimizers by sizes."""
    frame = pd.DataFrame(rows)
    table = frame.pivot(index="optimizer", columns="size", values=value)
    return table.loc[list(dict.fromkeys(frame["optimizer"])), list(dict.fromkeys(frame["size"]))]


def _headline(result: dict[str, Any]) -> str:
    """What was found, in a sentence or two."""
    step = pd.DataFrame(result["optimizers"]).set_index("optimizer")["step_ratio"]
    shown = [name for name in _OURS if name in step]
    text = ", ".join(f"`{name}` {step[name]:.2f}" for name in shown)
    ends = []
    for rows, what in (("sizes", "parameters"), ("leaves", "leaves of 100")):
        table = scaling_table(result[rows], "step_ratio")
        worst = table[table.index.isin(_OURS)].max()
        ends.append(f"up to {worst.max():.1f} with {worst.idxmax():,} {what}")
    return (
        f"**Time of a training step divided by that of Adam's step, {result['parameters']:,} "
        f"parameters: {text}.** Small "
        f"networks and many leaves pay more: {' and '.join(ends)}."
    )


def write_tables(result: dict[str, Any], path: Path) -> None:
    """Writes what `cost` has measured, beside its picture."""
    leaves = max(row["size"] for row in result["leaves"])
    text = (
        f"# What a training step costs ({result['device']})\n\n{_headline(result)}\n\n"
        f"Made by `python -m benchmarks cost --leaves {leaves}`: a multilayer perceptron with "
        f"{result['parameters']:,} parameters, minibatches of 16, gradients inside the `jit`, "
        f"parameters and state donated; jax {result['jax']}. The device moves "
        f"{result['bandwidth'] / 1e9:.1f} GB/s.\n\n"
        "![Steps by Adam's, and how they scale](cost.png)\n\n"
        f"{_LEGEND}\n\n"
        f"{markdown(optimizer_table(result), numbers='.2f')}\n"
    )
    for rows, value, title in (
        ("sizes", "step_ratio", "Step by Adam's, over the number of parameters"),
        ("leaves", "step_ratio", "Step by Adam's, over the number of leaves of 100 parameters"),
        ("leaves", "compile_seconds", "Tracing and compilation in seconds, over the same"),
        ("networks", "step_ratio", "Step by Adam's, of networks of many leaves"),
        ("networks", "compile_seconds", "Tracing and compilation in seconds, of the same"),
    ):
        if rows not in result:  # measured before there were such
            continue
        scaled = scaling_table(result[rows], value)
        text += f"\n{title}:\n\n{markdown(scaled, numbers='.2f')}\n"
    path.write_text(text, encoding="utf-8")
