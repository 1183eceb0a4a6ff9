"""`python -m benchmarks detector`: how often detectors cry wolf, and how soon they notice.

The losses are made up (see `streams`), so that each of them can be given millions of steps. What
an alarm does to a training run is left out: see `grid` for that.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks import streams
from benchmarks.detectors import DETECTORS, Detector
from benchmarks.operating_curves import save_operating_curves

RESULTS = Path(__file__).parent / "results"
MOMENTS = {"early": 100, "late": 5000}  # step of a change: in the descent, long behind it
_PATIENCE = 200  # steps; what is noticed later has been missed
_EARLY_STEPS = 200  # of healthy losses; alarms so soon are counted apart


def false_alarms(detector: Detector, count: int, steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """For every curve and noise: healthy steps, alarms, and those of them that came early."""
    for curve in streams.CURVES:
        for noise in streams.NOISES:
            some = max(1, round(count * detector.share))
            losses = streams.healthy(jax.random.key(seed), curve, noise, some, steps)
            alarms = detector.alarms(np.asarray(losses))
            if curve == "after an alarm":
                alarms = alarms[:, streams.BAD_LOSS_AT + 1 :]
            yield {
                "curve": curve,
                "noise": noise,
                "streams": some,
                "steps": alarms.size,
                "alarms": int(alarms.sum()),
                "early alarms": int(alarms[:, :_EARLY_STEPS].sum()),
            }


def delays(detector: Detector, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """For every change: median and 90 % quantile of the steps to the alarm, and how many missed.

    A delay of 0 is an alarm at the first loss after the change; None is a change that was missed.
    """
    for moment, when in MOMENTS.items():
        for change in streams.CHANGES:
            some = max(1, round(count * detector.share))
            losses = streams.changed(jax.random.key(seed), change, when, some, when + _PATIENCE)
            alarms = detector.alarms(np.asarray(losses))[:, when:]
            noticed = alarms.any(1)
            delay = np.where(noticed, alarms.argmax(1), np.inf)
            middle, most = np.quantile(delay, [0.5, 0.9], method="higher")
            yield {
                "moment": moment,
                "change": change,
                "median": int(middle) if np.isfinite(middle) else None,
                "90 %": int(most) if np.isfinite(most) else None,
                "missed": float(1 - noticed.mean()),
            }


def write_tables(results: dict[str, Any], path: Path) -> None:
    """Writes what `detector` has measured as Markdown, beside its picture."""
    alarms = pd.DataFrame(results["false alarms"])
    rate = 1e6 * alarms["alarms"] / alarms["steps"]
    alarms = alarms.assign(rate=rate, early=alarms["early alarms"] / alarms["streams"])
    given = alarms.groupby("detector", sort=False)["steps"].sum()
    late = pd.DataFrame(results["delays"])
    late["delay"] = late["median"].map("{:g}".format).where(late["median"].notna(), "missed")
    parts = [
        "# Detectors of a catastrophe, alone",
        "Made by `python -m benchmarks detector`: losses that are made up, with the noise of "
        "minibatches around them. Deviations are those of the noise.",
        "![Steps between false alarms by noise, and delay by size of a jump](detector.png)",
        "## False alarms in a million healthy steps",
        "By noise, over all curves (no alarm in so many steps is 0):",
        _markdown(_pivot(alarms, "noise").assign(steps=given.map("{:,}".format))),
        "By curve, over all noises. Noise is 10 % of the level, 50 % on the noisy plateau; one bad "
        f"loss, 100 times too high, comes at step {streams.BAD_LOSS_AT} before what is counted as "
        "after an alarm:",
        _markdown(_pivot(alarms, "curve")),
        f"Alarms in the first {_EARLY_STEPS} steps of a stream, where the noise is not known yet "
        "(they are counted above too):",
        _markdown(_pivot(alarms, "curve", "early").drop(columns="after an alarm")),
    ]
    for moment, when in MOMENTS.items():
        parts += [
            f"## Delay after a change at step {when} ({moment})",
            f"Median steps to the alarm, 0 at the first loss after the change; of a jump or a ramp "
            f"in deviations that is added to a descent with Gaussian noise; missed: not within "
            f"{_PATIENCE} steps in half of the streams.",
            _markdown(
                late[late["moment"] == moment]
                .pivot(index="detector", columns="change", values="delay")
                .loc[list(DETECTORS), list(streams.CHANGES)]
            ),
        ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _pivot(alarms: pd.DataFrame, columns: str, values: str = "rate") -> pd.DataFrame:
    order = list(dict.fromkeys(alarms[columns]))
    wide = alarms.pivot_table(values, "detector", columns, "mean", sort=False)
    return wide.loc[list(DETECTORS), order].map("{:.3g}".format)


def _markdown(frame: pd.DataFrame) -> str:
    return str(frame.to_markdown(disable_numparse=True))


@click.command(context_settings={"show_default": True})
@click.option("--streams", "count", type=click.IntRange(min=1), default=64, help="Of each kind.")
@click.option("--steps", type=click.IntRange(min=streams.BAD_LOSS_AT + 2), default=20_000)
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="results beside the program",
    help="Folder for detector.json, detector.md and detector.png.",
)
def detector(count: int, steps: int, seed: int, out: Path) -> None:
    """Compares detectors on losses that are made up: false alarms, and delays.

    --steps and --streams are those of the healthy losses; the detectors that are slow have fewer
    streams, as the table says.
    """
    results: dict[str, Any] = {"false alarms": [], "delays": []}
    with tqdm(DETECTORS.items(), unit=" detectors", disable=None) as bar:
        for name, one in bar:
            bar.set_postfix_str(name)
            for row in false_alarms(one, count, steps, seed):
                results["false alarms"].append({"detector": name, **row})
            for row in delays(one, count, seed):
                results["delays"].append({"detector": name, **row})
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, allow_nan=False)
    (out / "detector.json").write_text(text + "\n", encoding="utf-8")
    save_operating_curves(results, out / "detector.png")
    write_tables(results, out / "detector.md")
    click.echo(f"Tables: {out / 'detector.md'}  Picture: {out / 'detector.png'}")
