"""The tables, as Markdown."""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cost.measure import FEW
from benchmarks.markdown import markdown

_LEGEND = (
    "**step** and **update** (with gradients that lie in memory): times by Adam's; **at an "
    "alarm**: a step by Adam's step; **floor**: the bytes that the update must move, by the "
    "bandwidth; **traffic/floor**: those that the compiled update moves, as XLA counts them, by "
    "those that it must; **state** and **temporaries** of the step: in copies of the parameters."
)


def optimizer_table(result: dict[str, Any]) -> pd.DataFrame:
    """The costs of every optimizer, for people: see the help of the command."""
    rows = pd.DataFrame(result["optimizers"]).set_index("optimizer")
    floor = rows["floor_bytes"] / result["bandwidth"]
    return pd.DataFrame(
        {
            "step": rows["step_ratio"],
            "step, ms": 1e3 * rows["step_seconds"],
            "at an alarm": rows["alarm_ratio"],
            "update": rows["update_ratio"],
            "update, ms": 1e3 * rows["update_seconds"],
            "floor, ms": 1e3 * floor,
            "update/floor": rows["update_seconds"] / floor,
            "traffic/floor": rows["traffic_bytes"] / rows["floor_bytes"],
            "state": rows["state"],
            "temporaries": rows["temporaries"],
        }
    )


def scaling_table(rows: list[dict[str, Any]], value: str) -> pd.DataFrame:
    """One value of the scaling, optimizers by sizes."""
    table = pd.DataFrame(rows).pivot(index="optimizer", columns="size", values=value)
    return table.reindex(FEW)


def write_tables(result: dict[str, Any], path: Path) -> None:
    """Writes what `cost` has measured, beside its picture."""
    text = (
        f"# What a training step costs ({result['device']})\n\n"
        f"Made by `python -m benchmarks cost --out {path.parent}`: a multilayer perceptron with "
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
        ("leaves", "compile_seconds", "Compilation in seconds, over the number of such leaves"),
    ):
        scaled = scaling_table(result[rows], value)
        text += f"\n{title}:\n\n{markdown(scaled, numbers='.2f')}\n"
    path.write_text(text, encoding="utf-8")
