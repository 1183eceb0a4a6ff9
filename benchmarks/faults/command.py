"""`python -m benchmarks faults`: faults injected into training runs under several guards."""

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks import data
from benchmarks.choices import data_dir_option, out_option
from benchmarks.faults.guards import GUARDS
from benchmarks.faults.injection import EVERY
from benchmarks.faults.liveness import PAIRS
from benchmarks.faults.measure import beside_twins, league
from benchmarks.faults.picture import save_picture
from benchmarks.faults.scores import as_frame, summary
from benchmarks.faults.tables import survival, write_tables

_LEAST_STEPS = 100  # so that the first fault comes after a first evaluation


@click.command(context_settings={"show_default": True})
@click.option(
    "--dataset", type=click.Choice(["digits", "mnist"]), default="digits", help="The images."
)
@data_dir_option("mnist", "it")
@click.option(
    "--steps",
    type=click.IntRange(min=_LEAST_STEPS),
    default=800,
    help=f"Of a run; rounded down to a multiple of {EVERY}.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, help="For every fault and each of 3 places."
)
@out_option("faults", "Folder for faults.json, faults.md and faults.png.")
def faults(dataset: str, data_dir: Path | None, steps: int, seeds: int, out: Path) -> None:
    """Compares guards by what they survive: NaN, bad data, wrong rates, corrupted weights."""
    steps -= steps % EVERY
    try:
        examples = data.load(dataset, data_dir)
    except data.DataError as error:
        raise click.ClickException(str(error)) from error
    results: dict[str, Any] = {"dataset": dataset, "steps": steps, "seeds": seeds}
    results |= {"twins": [], "rows": []}
    with tqdm(total=len(GUARDS) + len(PAIRS), unit=" guards", disable=None) as bar:
        for name in GUARDS:
            bar.set_postfix_str(name)
            results["rows"] += league(name, examples, steps, seeds)
            bar.update()
        for name in PAIRS:
            bar.set_postfix_str(f"{name} beside its twin")
            results["twins"] += beside_twins(name)
            bar.update()
    out.mkdir(parents=True, exist_ok=True)
    (out / "faults.json").write_text(_json(results), encoding="utf-8")
    write_tables(results, out / "faults.md")
    save_picture(summary(as_frame(results)), out / "faults.png")
    click.echo(survival(as_frame(results)).to_string())
    click.echo(f"Tables: {out / 'faults.md'}  Picture: {out / 'faults.png'}")


def _json(results: dict[str, Any]) -> str:
    """One line for every row: a list of figures on a line each would be long."""
    lines = {
        key: ",\n".join(json.dumps(row, allow_nan=False) for row in results[key])
        for key in ("twins", "rows")
    }
    head = json.dumps({key: value for key, value in results.items() if key not in lines})
    tables = ", ".join(f'"{key}": [\n{rows}\n]' for key, rows in lines.items())
    return f"{head[:-1]}, {tables}}}\n"
