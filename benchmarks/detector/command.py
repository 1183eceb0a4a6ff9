"""`python -m benchmarks detector`: how often detectors cry wolf, and how soon they notice."""

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.choices import out_option
from benchmarks.detector import streams
from benchmarks.detector.detectors import COMPARED
from benchmarks.detector.measure import delays, false_alarms
from benchmarks.detector.picture import save_picture
from benchmarks.detector.tables import write_tables


@click.command(context_settings={"show_default": True})
@click.option("--streams", "count", type=click.IntRange(min=1), default=64, help="Of each kind.")
@click.option("--steps", type=click.IntRange(min=streams.BAD_LOSS_AT + 2), default=20_000)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@out_option("detector", "Folder for detector.json, detector.md and detector.png.")
def detector(count: int, steps: int, seed: int, out: Path) -> None:
    """Compares detectors on losses that are made up: false alarms, and delays.

    --steps and --streams are those of the healthy losses; the detectors that are slow have fewer
    streams, as the table says.
    """
    results: dict[str, Any] = {"false alarms": [], "delays": []}
    with tqdm(COMPARED.items(), unit=" detectors", disable=None) as bar:
        for name, one in bar:
            bar.set_postfix_str(name)
            for row in false_alarms(one, count, steps, seed):
                results["false alarms"].append({"detector": name, **row})
            for row in delays(one, count, seed):
                results["delays"].append({"detector": name, **row})
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, allow_nan=False)
    (out / "detector.json").write_text(text + "\n", encoding="utf-8")
    save_picture(results, out / "detector.png")
    write_tables(results, out / "detector.md")
    click.echo(f"Tables: {out / 'detector.md'}  Picture: {out / 'detector.png'}")
