"""`python -m benchmarks faults`: faults injected into training runs under several guards."""

import json
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks import data, models
from benchmarks.fault_map import save_fault_map
from benchmarks.faults import BATCH, EVERY, FAULTS, Run, case, runner
from benchmarks.guards import GUARDS
from benchmarks.liveness import BAD, PAIRS, TROUBLES, outcomes
from benchmarks.liveness import STEPS as TWIN_STEPS

RESULTS = Path(__file__).parent / "results"
MARGIN = 2  # points of the test error, above the same run without the fault
PLACES = (0.05, 0.25, 0.6)  # where the fault starts, as shares of the run
HIDDEN = (64, 32)  # widths of the network
_LEAST_STEPS = 100  # so that the first fault comes after a first evaluation
_TEST_IMAGES = 1000  # at most; digits have 297
_AT_ONCE = 11  # runs in step with one another: more do not fit into a cache


def starts(steps: int) -> list[int]:
    """The steps at which the faults start, from 0."""
    return [EVERY * round(share * steps / EVERY) for share in PLACES]


def league(name: str, examples: data.Dataset, steps: int, seeds: int) -> list[dict[str, Any]]:
    """All runs under one guard: with every fault, from every place on, from so many seeds.

    Every place has seeds of its own, the same for all faults: each run with a fault has one
    without at its side, which is the same up to the fault.

    Args:
      name: of the guard.
      examples: the images; of the test set the first 1,000 are used.
      steps: of a run, a multiple of `EVERY`.
      seeds: for every fault and place.

    Returns:
      A row for every fault, with a list over the runs of each figure.
    """
    test = data.Split(*(part[:_TEST_IMAGES] for part in examples.test))
    run = runner(GUARDS[name], models.MLP(HIDDEN), data.Dataset(examples.train, test), steps)
    places = [(at, seed) for at in starts(steps) for seed in range(seeds)]
    cases = [
        case(fault, start, index)
        for fault in FAULTS.values()
        for index, (start, _) in enumerate(places)
    ]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    runs = Run(*jax.jit(lambda cases: jax.lax.map(run, cases, batch_size=_AT_ONCE))(batch))
    # (faults, places, ...)
    runs = Run(*(np.asarray(x).reshape(len(FAULTS), len(places), *x.shape[1:]) for x in runs))
    rows = []
    for fault, *those in zip(FAULTS, *runs, strict=True):
        figures = [
            _figures(Run(*one), control, start)
            for *one, control, (start, _) in zip(*those, runs.errors[0], places, strict=True)
        ]
        lists = {key: [figure[key] for figure in figures] for key in figures[0]}
        rows.append({"guard": name, "fault": fault, **lists})
    return rows


def _figures(run: Run, control: Any, start: int) -> dict[str, Any]:
    """What is kept of a run; `control` are the errors of the same run without the fault."""
    well = 100 * (run.errors - control) < MARGIN
    ill = np.flatnonzero(~well)
    alarms = np.flatnonzero(run.alarms)
    loss = float(run.losses[-1])
    return {
        "start": start,
        "survived": bool(well[-1]),
        "recovery": EVERY * int(ill[-1] + 2) - start if well[-1] and ill.size else 0,
        "error": round(100 * float(run.errors[-1]), 3),
        "loss": float(f"{loss:.4g}") if np.isfinite(loss) else None,
        "alarms": alarms.size,
        "delay": int(alarms[0]) - start if alarms.size else None,
    }


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for every fault and guard, medians over the runs.

    `recovery` is infinite where the median run has not recovered, `loss` where it is not finite;
    `runs`, `survived` and `all_alarms` are sums.
    """
    each = runs.assign(
        recovery=runs["recovery"].where(runs["survived"], np.inf),
        loss=runs["loss"].fillna(np.inf),
        runs=1,
    )
    grouped = each.groupby(["fault", "guard"], sort=False)
    medians = grouped[["recovery", "error", "loss", "alarms"]].median()
    sums = grouped[["runs", "survived"]].sum()
    return medians.join(sums).assign(all_alarms=grouped["alarms"].sum()).reset_index()


def read(results: dict[str, Any]) -> pd.DataFrame:
    """One row for every run."""
    rows = pd.DataFrame(results["rows"])
    runs = rows.explode([key for key in rows.columns if key not in {"guard", "fault"}])
    kinds = {"survived": bool, "start": int, "alarms": int}
    kinds |= dict.fromkeys(("recovery", "error", "loss", "delay"), float)
    return runs.astype(kinds).reset_index(drop=True)


def survival(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs survived, faults by guards, as text."""
    counts = summary(runs)
    text = counts["survived"].astype(str) + " of " + counts["runs"].astype(str)
    return _wide(counts.assign(text=text), "text").drop(index=_control())


def beside_twins(name: str) -> list[dict[str, Any]]:
    """What every trouble costs one of `PAIRS`: a row for each."""
    guarded, twin = outcomes(name, True), outcomes(name, False)
    kinds = {"guarded": guarded.loss, "twin": twin.loss, "scale": guarded.scale}
    return [
        {"optimizer": name, "trouble": trouble}
        | {kind: _number(values[index]) for kind, values in kinds.items()}
        for index, trouble in enumerate(TROUBLES)
    ]


def _number(value: Any) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _twins(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Troubles by optimizers: loss with the guard / without, and the scale where it is below 1."""

    def cell(row: pd.Series) -> str:
        losses = " / ".join(
            "explodes" if pd.isna(row[kind]) else f"{row[kind]:.2g}" for kind in ("guarded", "twin")
        )
        return losses if row["scale"] == 1 else f"{losses} ({row['scale']:g})"

    frame = pd.DataFrame(rows)
    return (
        frame.assign(text=frame.apply(cell, axis=1))
        .pivot(index="trouble", columns="optimizer", values="text")
        .loc[list(TROUBLES), list(PAIRS)]
    )


def _found(runs: pd.DataFrame, twins: list[dict[str, Any]]) -> str:
    """The result in two sentences."""
    struck = runs[runs["fault"] != _control()]
    survived = struck.groupby("guard", sort=False)["survived"].agg(["sum", "count"])
    ours = "page_hinkley(adam)"
    # Behind it stand the paper's test and ours.
    rival = str(survived["sum"].loc[:"ZClip"].idxmax())
    counts = {name: int(survived["sum"][name]) for name in (ours, rival)}
    all_of_them = int(survived["count"][ours])
    fixed = pd.DataFrame([row for row in twins if not row["optimizer"].startswith("salera")])
    as_good = (fixed["guarded"] <= 2 * fixed["twin"].fillna(np.inf) + 0.01) & (
        fixed["scale"] >= 0.5
    )
    return (
        f"**{counts[ours]} of {all_of_them} runs of Adam that are struck by a fault survive under "
        f"`page_hinkley`, {counts[rival]} under the best of the others ({rival}).** "
        "Where the data are to blame the guard costs nothing: of "
        f"{len(fixed)} runs of SGD, momentum and Adam through bad or changing data {as_good.sum()} "
        "end no worse than without the guard, with at least half of their steps."
    )


def write_tables(results: dict[str, Any], path: Path) -> None:
    """Writes what `faults` has measured as Markdown, beside its picture."""
    runs = read(results)
    medians = summary(runs)
    control = runs[runs["fault"] == _control()].groupby("guard", sort=False)
    steps = results["steps"]
    false = pd.DataFrame({"false alarms": control["alarms"].sum()})
    false["healthy steps"] = (steps * control.size()).map("{:,}".format)
    false.loc[[name for name in false.index if GUARDS[name].alarm is None], "false alarms"] = None
    false["false alarms"] = false["false alarms"].map("{:g}".format, na_action="ignore").fillna("")
    loss = _wide(medians, "loss").map(lambda loss: f"{loss:.3g}" if loss < 1e3 else "explodes")
    recovery = _wide(medians, "recovery").map(lambda r: f"{r:g}" if np.isfinite(r) else "never")
    place = runs.groupby(["fault", "start", "guard"], sort=False)["survived"].mean().unstack()
    place = place.loc[list(FAULTS)[1:], list(GUARDS)].map("{:.0%}".format)
    parts = [
        "# Faults injected into training runs",
        _found(runs, results["twins"]),
        f"Made by `python -m benchmarks faults`: {results['dataset']}, a network with two hidden "
        f"layers ({HIDDEN[0]} and {HIDDEN[1]}), minibatches of {BATCH} on two data-parallel "
        f"replicas, {steps} steps. Adam at {GUARDS['page_hinkley(adam)'].learning_rate:g} under "
        f"all guards but the last two, which are SGD with momentum 0.9 at "
        f"{GUARDS['page_hinkley(momentum)'].learning_rate:g} and SALERA from 0.1, under the "
        "paper's law. The fault comes at step "
        f"{', '.join(map(str, starts(steps)[:-1]))} or {starts(steps)[-1]}, each in "
        f"{results['seeds']} runs of different seeds.",
        "![Runs that survive, faults by guards](faults.png)",
        "A run **survives** if its test error at the end is less than "
        f"{MARGIN} points above that of the same run without the fault: the same guard, seed and "
        f"minibatches. It has **recovered** when it is so, and stays so, after so many steps from "
        f"the start of the fault, looked at every {EVERY} steps. Medians are over all runs of a "
        "fault.",
        _markdown(pd.DataFrame({"what happens": {n: f.text for n, f in FAULTS.items()}})),
        "Skip-step is the rule of OLMo-core and Levanter, mean + 6 deviations of 128 losses and "
        "gradient norms; a NaN that it skips passes all the same, for it is multiplied by zero. "
        "MaxText's skip-step has the same rule and holds a NaN, but skips all else as well for as "
        "long as the NaN is among the 128. Skip-and-clip is axlearn's: it skips gradients that "
        "are not finite or have a norm of 100 or more, and clips the others to a norm of 1. ZClip "
        "clips a norm more than 2.5 deviations above its running mean to near that mean, the "
        "nearer the more it stands out, and every norm to 1; it skips nothing. The published "
        "Page-Hinkley test is the paper's text: smoothing by the ratio of the minibatch to the "
        "training set, and a rollback; a NaN is held in it here, which silences it for good in "
        "the paper. `apply_if_finite` gives up after 5 bad steps in a row.",
        "## Runs that survive",
        _markdown(survival(runs)),
        "## Beside the twin without the guard",
        f"Here nothing is wrong with the steps: the data are bad, or the loss changes. A network "
        f"of 32 hidden units on the digits, {TWIN_STEPS} steps, the 200 bad minibatches from step "
        f"{BAD} on. The twin is the same optimizer under `apply_if_finite`, on the same "
        "minibatches; that of `salera` is `alera`, that of `salera_adamw` is `ag_adam`. In each "
        "cell: the loss on all images at the end, guarded / twin, and behind them what alarms have "
        "left of the steps, where that is not all.",
        _markdown(_twins(results["twins"])),
        "## Steps to recover, median",
        _markdown(recovery.drop(index=_control())),
        "## Test error at the end, %, median",
        _markdown(_wide(medians, "error").map("{:.1f}".format)),
        "## Test loss at the end, median",
        _markdown(loss),
        "## Alarms, median",
        "For apply_if_finite, the two skip-steps and skip-and-clip the steps that they skip. "
        "Before the fault a run is the same as its control, so that its alarms there are among the "
        "false alarms below.",
        _markdown(_wide(medians, "alarms").map("{:g}".format)),
        "## False alarms, all controls together",
        _markdown(false),
        "## Survival by the step of the fault",
        _markdown(place.reset_index(), index=False),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _control() -> str:
    return next(iter(FAULTS))


def _wide(medians: pd.DataFrame, values: str) -> pd.DataFrame:
    return medians.pivot(index="fault", columns="guard", values=values).loc[
        list(FAULTS), list(GUARDS)
    ]


def _markdown(frame: pd.DataFrame, index: bool = True) -> str:
    return str(frame.to_markdown(index=index, disable_numparse=True))


@click.command(context_settings={"show_default": True})
@click.option(
    "--dataset", type=click.Choice(["digits", "mnist"]), default="digits", help="The images."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="TFDS directory that has mnist; only read. Without it TFDS downloads it.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=_LEAST_STEPS),
    default=800,
    help=f"Of a run; rounded down to a multiple of {EVERY}.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, help="For every fault and each of 3 places."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="results beside the program",
    help="Folder for faults.json, faults.md and faults.png.",
)
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
    save_fault_map(summary(read(results)), out / "faults.png")
    click.echo(survival(read(results)).to_string())
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
