"""`python -m benchmarks cost`: what a step costs, as a table, as JSON and as a picture."""

import json
from functools import partial
from pathlib import Path

import click
import jax

from benchmarks.choices import out_option
from benchmarks.cost import programs
from benchmarks.cost.measure import compared, optimizer_costs
from benchmarks.cost.picture import save_picture
from benchmarks.cost.tables import write_tables


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
    default=100,
    help="Largest number of leaves in the scaling, which goes up from 1 in tens. "
    "A thousand take minutes to compile.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=9,
    help="How often everything is timed; the medians are shown.",
)
@out_option("cost", "Folder for cost.json, cost.md and cost.png.")
def cost(parameters: int, largest: int, leaves: int, rounds: int, out: Path) -> None:
    """Measures what a training step costs on this device, beside Adam's.

    For every optimizer the time of a whole training step of a multilayer perceptron (minibatches
    of 16, gradients inside the jit, parameters and state donated), of the update alone and of a
    step with an alarm; the memory; and how they scale. The tables tell the units.
    """
    sizes = [10**power for power in range(4, len(str(largest)))]
    counts = [10**power for power in range(len(str(leaves)))]
    rows, bandwidth = optimizer_costs(parameters, rounds)
    result = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "parameters": parameters,
        "bandwidth": bandwidth,
        "optimizers": rows,
        "sizes": compared({n: partial(programs.at_size, parameters=n) for n in sizes}, rounds),
        "leaves": compared({n: partial(programs.at_leaves, leaves=n) for n in counts}, rounds),
        "networks": compared(programs.NETWORKS, rounds),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "cost.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_tables(result, out / "cost.md")
    save_picture(result, out / "cost.png")
    click.echo((out / "cost.md").read_text(encoding="utf-8"))
    click.echo(f"Data: {out / 'cost.json'}  Picture: {out / 'cost.png'}")
