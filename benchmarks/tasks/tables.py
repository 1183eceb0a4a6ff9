"""The tables, as Markdown."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.markdown import markdown
from benchmarks.tasks.contenders import CONTENDERS
from benchmarks.tasks.scores import REFERENCE, RELIABLE, overall, scores
from benchmarks.tasks.suite import TASKS
from benchmarks.tasks.task import NEAR, Task

_FLAGSHIP = "salera_adamw"
_TITLES = {
    "default_rank": "rank at its default",
    "best_rank": "rank at its best rate",
    "reliable": "reliable",
    "near": "rates near the best",
}


def write_tables(curves: pd.DataFrame, path: Path) -> None:
    """Writes what the runs amount to, beside the picture."""
    found = scores(curves)
    means = overall(found)
    seeds = curves["seeds"]
    several = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    parts = [
        "# Eight small tasks",
        _in_short(curves, means["all"]),
        f"Made by `python -m benchmarks tasks --seeds {seeds.max()}`. One configuration of every "
        "optimizer for all tasks: everything but the initial rate as its authors or Optax have it, "
        "weight decay included; six rates, the multiples "
        f"{_numbers(CONTENDERS[REFERENCE].factors)} of the default, or "
        f"{_numbers(CONTENDERS['prodigy'].factors)} of those whose rate is a factor, by default 1, "
        f"of what they find themselves. Means over {several} seeds, which draw the initial "
        "parameters and the minibatches. Lower is better in all tables. A run has **failed** when "
        "its loss on the test part is not finite; one such seed is enough, and it ranks last.",
        "![Each task: result by initial rate](tasks.png)",
        "**Near** the best is a result within "
        f"{NEAR:.0%} of the least of all optimizers and rates (on the transformer within {NEAR} "
        "nats). **Reliable** is an optimizer on a task that at its default is no more than "
        f"{RELIABLE:.0%} worse than AdamW from the best of its six rates. The AdamG paper "
        "(arXiv 2405.04376) introduced reliability as a criterion beside the quality of the "
        "solution; this definition is ours, after it. The first four tasks may serve to choose "
        "constants of this library (**tuning**), the others only to confirm them "
        "(**confirmation**). The logistic regression, though, showed that gradients have to agree "
        "in the units in which Adam steps, and confirms nothing of that.",
        _remark(found),
        markdown(
            pd.DataFrame(_descriptions(), columns=["task", "split", "what it is", "steps"]),
            index=False,
        ),
        "## Over the tasks",
    ]
    for split, of_split in means.items():
        parts += [f"### {split.capitalize()} tasks", markdown(_summary(of_split), index=False)]
    parts += _beside_the_best(found)
    for name, task in TASKS.items():
        rows = found[found["task"] == name]
        if len(rows):
            parts += [f"## {name.capitalize()} ({task.split}), {task.unit}"]
            parts += [markdown(_of_task(rows, task), index=False)]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _ours(optimizer: str) -> bool:
    return optimizer.startswith(("salera", "ag_adam"))


def _beside_the_best(found: pd.DataFrame) -> list[str]:
    """Ours at their defaults, by the best of the others at its best rate; and how flat they are."""
    ours = found["optimizer"].map(_ours)
    if ours.all() or not ours.any():
        return []
    best = found[~ours].sort_values("best").drop_duplicates("task").set_index("task")
    rows = found[ours].assign(
        default=found["default"] / found["task"].map(best["best"]),
        worst=found["worst"] / found["best"],
    )
    tables = []
    for figure in ("default", "worst"):
        table = rows.pivot(index="task", columns="optimizer", values=figure)
        table = table.loc[[name for name in TASKS if name in table.index]]
        table = table[[name for name in CONTENDERS if name in table.columns]]
        tables.append(table.map("{:.2f}".format))
    rivals = best["optimizer"] + " from " + best["best_rate"].map("{:g}".format)
    tables[0].insert(0, "best of the others", rivals)
    return [
        "### Beside the best of the others",
        "The result at the default by that of the best of the others from the best of its rates:",
        markdown(tables[0].reset_index(), index=False),
        "The worst result from any of the rates by the best, in five decades:",
        markdown(tables[1].reset_index(), index=False),
    ]


def _in_short(curves: pd.DataFrame, means: pd.DataFrame) -> str:
    """What was found, in two sentences; nothing where ours is not among the optimizers."""
    ranks = means["default_rank"].sort_values()
    rivals = [name for name in ranks.index if not _ours(name)]
    if _FLAGSHIP not in ranks or not rivals:
        return ""
    first = [f"`{name}` {ranks[name]:.1f}" for name in ranks.index if name not in rivals]
    ours = curves[curves["optimizer"] == _FLAGSHIP]
    flat, flat_above = 0, 0
    for name, curve in ours.groupby("task"):
        near = curve["value"] <= TASKS[str(name)].near(float(curve["value"].min()))
        flat += bool(near.all())
        flat_above += bool(near[curve["learning_rate"] >= CONTENDERS[_FLAGSHIP].rate].all())
    return (
        f"**Mean ranks at the defaults: {', '.join(first)}; the best of the others, "
        f"{rivals[0]}, {ranks[rivals[0]]:.1f}.** On {flat_above} of {ours['task'].nunique()} tasks "
        f"`{_FLAGSHIP}` ends near its own best from every rate from its default upwards, on {flat} "
        "also from those below."
    )


def _remark(found: pd.DataFrame) -> str:
    """What the choice of the tasks does to the comparison."""
    best = found.loc[found["optimizer"] == REFERENCE, "best_rate"]
    rates = " or ".join(f"{rate:g}" for rate in sorted(set(best)))
    return (
        "The models are small and the runs short, which favours large rates: AdamW's best of the "
        f"six is {rates or 'not known'}, its default {CONTENDERS[REFERENCE].rate:g}."
    )


def _descriptions() -> list[tuple[str, str, str, int]]:
    return [(name, task.split, task.text, task.steps) for name, task in TASKS.items()]


def _summary(means: pd.DataFrame) -> pd.DataFrame:
    """The means over some tasks as text, the least rank at the default first."""
    means = means.sort_values("default_rank")
    for name in ("reliable", "near"):
        means[name] = means[name].map("{:.0%}".format)
    for name in ("default_rank", "best_rank"):
        means[name] = means[name].map("{:.1f}".format)
    return means.rename(columns=_TITLES).reset_index()


def _of_task(found: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The figures of a task as text, the best at the default first."""
    rows = found.sort_values(["default", "best"])
    edge = np.where(rows["edge"], " (at the edge)", "")
    return pd.DataFrame(
        {
            "optimizer": rows["optimizer"],
            "default": [f"{CONTENDERS[name].rate:g}" for name in rows["optimizer"]],
            "result there": rows["default"].map(number),
            "best": rows["best"].map(number),
            "from": rows["best_rate"].map("{:g}".format) + edge,
            "worst": rows["worst"].map(number),
            f"near {task.near(rows['best'].min()):.3g} or below": rows["near"].astype(str)
            + " of "
            + rows["rates"].astype(str),
        }
    )


def number(value: float) -> str:
    """A result with three digits; `failed` for one that is not finite."""
    if np.isnan(value):
        return ""
    if np.isinf(value):
        return "failed"
    return f"{value:.3g}" if value < 1e4 else f"{value:.0e}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
