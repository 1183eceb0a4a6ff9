"""The tables, as Markdown."""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.detector import streams
from benchmarks.detector.detectors import COMPARED
from benchmarks.detector.measure import EARLY_STEPS, MOMENTS, PATIENCE
from benchmarks.markdown import markdown


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
        _headline(alarms, late),
        "Made by `python -m benchmarks detector`: losses that are made up, with the noise of "
        "minibatches around them. Deviations are those of the noise.",
        "![Steps between false alarms by noise, and delay by size of a jump](detector.png)",
        "## False alarms in a million healthy steps",
        "By noise, over all curves (no alarm in so many steps is 0):",
        markdown(_pivot(alarms, "noise").assign(steps=given.map("{:,}".format))),
        "By curve, over all noises. Noise is 10 % of the level, 50 % on the noisy plateau; one bad "
        f"loss, 100 times too high, comes at step {streams.BAD_LOSS_AT} before what is counted as "
        "after an alarm:",
        markdown(_pivot(alarms, "curve")),
        f"Alarms in the first {EARLY_STEPS} steps of a stream, where the noise is not known yet "
        "(they are counted above too):",
        markdown(_pivot(alarms, "curve", "early").drop(columns="after an alarm")),
    ]
    for moment, when in MOMENTS.items():
        parts += [
            f"## Delay after a change at step {when} ({moment})",
            f"Median steps to the alarm, 0 at the first loss after the change; of a jump or a ramp "
            f"in deviations that is added to a descent with Gaussian noise; missed: not within "
            f"{PATIENCE} steps in half of the streams.",
            markdown(
                late[late["moment"] == moment]
                .pivot(index="detector", columns="change", values="delay")
                .loc[list(COMPARED), list(streams.CHANGES)]
            ),
        ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _headline(alarms: pd.DataFrame, late: pd.DataFrame) -> str:
    """What was found, in a sentence or two."""
    ours = alarms[alarms["detector"] == "robust"]
    independent = ours[~ours["noise"].str.startswith(("AR", "period"))]
    known = 1e6 * (independent["alarms"] - independent["early alarms"]).sum()
    published = alarms[alarms["detector"].str.startswith("published")]
    theirs = published.groupby("detector")["rate"].mean().min()
    jump = late[(late["detector"] == "robust") & (late["change"] == "jump 10")]
    delays = " and ".join(f"{row.delay} ({row.moment})" for row in jump.itertuples())
    return (
        f"**`robust` raises {known / independent['steps'].sum():.2g} false alarms in a million "
        f"healthy steps of independent noise once the noise is known, and "
        f"{ours['rate'].mean():.2g} over all noises, correlated ones and the first steps "
        f"among them; the paper's test raises {theirs:,.0f} or more. A jump of 10 deviations it "
        f"notices after {delays} steps.**"
    )


def _pivot(alarms: pd.DataFrame, columns: str, values: str = "rate") -> pd.DataFrame:
    order = list(dict.fromkeys(alarms[columns]))
    wide = alarms.pivot_table(values, "detector", columns, "mean", sort=False)
    return wide.loc[list(COMPARED), order].map("{:.3g}".format)
