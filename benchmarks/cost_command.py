"""`python -m benchmarks cost`: what a step costs, as a table, as JSON and as a picture."""

import json
from pathlib import Path
from typing import Any

import click
import jax
import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import cost as costs
from benchmarks import cost_programs as programs
from benchmarks.plots import COLOURS, STYLE

RESULTS = Path(__file__).parent / "results"
_LEGEND = (
    "**step** and **update** (with gradients that lie in memory): times by Adam's; **at an "
    "alarm**: a step by Adam's step; **floor**: the bytes that the update must move, by the "
    "bandwidth; **traffic/floor**: those that the compiled update moves, as XLA counts them, by "
    "those that it must; **state** and **temporaries** of the step: in copies of the parameters."
)
_STAYS_OUT = "#888888"  # what is there for comparison


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
    return table.reindex(costs.FEW)


def save_picture(result: dict[str, Any], path: Path) -> None:
    """Draws the steps, and their scaling over parameters and leaves, and writes them as PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.5), layout="constrained")
        axes = figure.subplot_mosaic([["steps", "steps", "steps"], ["sizes", "leaves", "compile"]])
        _draw_steps(axes["steps"], pd.DataFrame(result["optimizers"]))
        for name, rows, value, label in (
            ("sizes", "sizes", "step_ratio", "parameters"),
            ("leaves", "leaves", "step_ratio", "leaves of 100 parameters"),
            ("compile", "leaves", "compile_seconds", "leaves of 100 parameters"),
        ):
            _draw_scaling(axes[name], scaling_table(result[rows], value), label)
        for name in ("sizes", "leaves"):
            axes[name].set(ylabel="step / Adam's step", ylim=(0, None))
        axes["compile"].set_ylabel("compilation (s)")
        axes["compile"].set_yscale("log")
        handles, labels = axes["sizes"].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(f"What a training step costs ({result['device']})", fontsize=12)
        figure.savefig(path, dpi=130)


def _draw_steps(axis: Axes, rows: pd.DataFrame) -> None:
    ours = rows["optimizer"].str.contains("alera|ag_adam|page_hinkley")
    colours = [COLOURS[0] if our else _STAYS_OUT for our in ours]
    bars = axis.barh(rows["optimizer"], rows["step_ratio"], color=colours)
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.axvline(1, color="black", lw=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("whole training step / Adam's step (grey: for comparison)")
    axis.grid(axis="y", visible=False)


def _draw_scaling(axis: Axes, table: pd.DataFrame, label: str) -> None:
    for (name, values), colour in zip(table.iterrows(), COLOURS, strict=False):
        axis.plot(table.columns, values, "o-", ms=4, lw=1.6, color=colour, label=name)
    axis.set_xscale("log")
    axis.set_xlabel(label)


def write_costs(result: dict[str, Any], out: Path) -> None:
    """Writes cost.json, the tables of cost.md, and cost.png."""
    table = optimizer_table(result)
    table = table.astype(object).where(table.notna(), None)
    text = (
        f"# What a training step costs ({result['device']})\n\n"
        "Made by `python -m benchmarks cost`: a multilayer perceptron with "
        f"{result['parameters']:,} parameters, minibatches of 16, gradients inside the `jit`, "
        f"parameters and state donated; jax {result['jax']}. The device moves "
        f"{result['bandwidth'] / 1e9:.1f} GB/s.\n\n"
        "![Steps by Adam's, and how they scale](cost.png)\n\n"
        f"{_LEGEND}\n\n"
        f"{table.to_markdown(floatfmt='.2f', missingval='')}\n"
    )
    for rows, value, title in (
        ("sizes", "step_ratio", "Step by Adam's, over the number of parameters"),
        ("leaves", "step_ratio", "Step by Adam's, over the number of leaves of 100 parameters"),
        ("leaves", "compile_seconds", "Compilation in seconds, over the number of such leaves"),
    ):
        scaled = scaling_table(result[rows], value)
        text += f"\n{title}:\n\n{scaled.to_markdown(floatfmt='.2f')}\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "cost.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "cost.md").write_text(text, encoding="utf-8")
    save_picture(result, out / "cost.png")


@click.command(context_settings={"show_default": True})
@click.option(
    "--parameters",
    type=click.IntRange(min=100),
    default=2**24,
    help="Of the network that all optimizers train. Takes some 200 bytes a parameter.",
)
@click.option(
    "--largest",
    type=click.IntRange(min=10_000),
    default=10**7,
    help="Largest number of parameters in the scaling, which goes up from 10,000 in tens. "
    "Takes some 120 bytes a parameter.",
)
@click.option(
    "--leaves",
    type=click.IntRange(min=1),
    default=1000,
    help="Largest number of leaves in the scaling, which goes up from 1 in tens. "
    "A GPU compiles a thousand for minutes.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=9,
    help="How often everything is timed; the medians are shown.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="results beside the program",
    help="Folder for cost.json, cost.md and cost.png.",
)
def cost(parameters: int, largest: int, leaves: int, rounds: int, out: Path) -> None:
    """Measures what a training step costs on this device, beside Adam's.

    For every optimizer the time of a whole training step of a multilayer perceptron (minibatches
    of 16, gradients inside the jit, parameters and state donated), of the update alone and of a
    step with an alarm; the memory; and how they scale. The tables tell the units.
    """
    sizes = [10**power for power in range(4, len(str(largest)))]
    counts = [10**power for power in range(len(str(leaves)))]
    rows, bandwidth = costs.optimizer_costs(parameters, rounds)
    result = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "parameters": parameters,
        "bandwidth": bandwidth,
        "optimizers": rows,
        "sizes": costs.scaling(sizes, programs.at_size, rounds),
        "leaves": costs.scaling(counts, programs.at_leaves, rounds),
    }
    write_costs(result, out)
    click.echo((out / "cost.md").read_text(encoding="utf-8"))
    click.echo(f"Data: {out / 'cost.json'}  Picture: {out / 'cost.png'}")
