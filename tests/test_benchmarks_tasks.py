"""The eight small tasks: they are what they say, and their tables say what was measured."""

import functools

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.log import read_lines
from benchmarks.tasks import measure, scores, tables
from benchmarks.tasks.adamg import adamg
from benchmarks.tasks.contenders import CONTENDERS, Contender
from benchmarks.tasks.language import ALPHABET, Grammar
from benchmarks.tasks.suite import TASKS

CHEAP = "logistic"


@functools.cache
def data_of(name):
    return TASKS[name].data()


def outcome(name, contender, rates, steps, part="test"):
    data = data_of(name)
    measured = getattr(data, part)
    run = measure.program(TASKS[name], contender, steps)
    return jax.jit(run)(
        np.array(rates, np.float32), np.uint32(0), *jax.device_put((data.train, measured))
    )


def command(*arguments):
    return CliRunner().invoke(main, ["tasks", *map(str, arguments)])


def a_line(task, optimizer, rate, value, seed=0):
    run = {"task": task, "optimizer": optimizer, "steps": 5, "seed": seed, "learning_rate": rate}
    return run | {"value": value, "loss": value, "alarms": 0, "seconds": 0.1}


LONG = {"transformer", "residual", "mixer", "recurrent"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in TASKS]
)
def test_adam_makes_progress_on_every_task_and_the_data_are_always_the_same(name):
    for part, again in zip(data_of(name), TASKS[name].data(), strict=True):
        np.testing.assert_array_equal(part.inputs, again.inputs)
        np.testing.assert_array_equal(part.labels, again.labels)
    adam = Contender(lambda rate, _: optax.adam(rate), 0.01)
    steps = TASKS[name].steps // 6
    standing, moving = outcome(name, adam, [0.0, 0.01], steps, "train").loss
    assert np.isfinite(moving)
    assert moving < 0.97 * standing


def test_four_tasks_serve_to_choose_and_four_to_confirm():
    assert [task.split for task in TASKS.values()] == ["tuning"] * 4 + ["confirmation"] * 4


def test_the_made_up_language_can_be_written_and_is_the_same_for_everyone():
    text = Grammar(0).text(500)
    assert text.startswith("the ginsen ters a ginsen. many borpenzalen sursul the ton.")
    assert set(text) <= set(ALPHABET)


def test_runs_side_by_side_are_those_that_run_alone():
    contender = CONTENDERS["schedule-free adamw"]
    together = outcome(CHEAP, contender, [0.001, 0.01, 0.1], 20)
    for index, rate in enumerate([0.001, 0.01, 0.1]):
        alone = outcome(CHEAP, contender, [rate], 20)
        np.testing.assert_allclose(alone.value[0], together.value[index], rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "salera_adamw"))
        for name in CONTENDERS
    ],
)
def test_every_optimizer_moves_and_its_default_is_among_its_rates(name):
    contender = CONTENDERS[name]
    assert contender.rate in contender.rates
    assert len(contender.rates) == len(set(contender.rates)) == 6
    untrained = np.log(2)
    assert outcome(CHEAP, contender, [contender.rate], 20).loss[0] != pytest.approx(
        untrained, abs=1e-7
    )


def test_the_rate_of_the_cosine_rises_and_falls_to_zero():
    tx = CONTENDERS["adamw, cosine"].make(1.0, 100)
    params = np.ones(1, np.float32)
    state = tx.init(params)
    sizes = []
    for _ in range(100):
        updates, state = tx.update(np.ones(1, np.float32), state, params)
        sizes.append(-float(updates[0]))
    assert np.argmax(sizes) in {9, 10}
    assert sizes[9] == pytest.approx(1, rel=0.01)
    assert sizes[0] == pytest.approx(0.1, rel=0.01)
    assert sizes[-1] < 0.001


def test_adamg_takes_the_steps_worked_out_by_hand():
    tx = adamg()
    state = tx.init(0.0)
    moves, state = tx.update(2.0, state)
    v = 0.001 * 4
    r = 0.05 * 0.2 * v**0.24
    assert moves == pytest.approx(-r * 2 / (np.sqrt(4) + 1e-8), rel=1e-5)
    moves, state = tx.update(-1.0, state)
    m, v = 0.95 * 0.05 * r * 2, 0.999 * v + 0.001
    r = 0.95 * r + 0.05 * 0.2 * v**0.24
    m -= 0.05 * r
    expected = -m / (1 - 0.95**2) / np.sqrt(v / (1 - 0.999**2)) / np.sqrt(2)
    assert moves == pytest.approx(expected, rel=1e-4)


def test_a_failed_seed_fails_the_rate_and_ranks_last():
    lines = [
        *(a_line(CHEAP, "adamw", rate, value) for rate, value in ((0.001, 0.5), (0.01, 0.4))),
        *(a_line(CHEAP, "salera", rate, value) for rate, value in ((0.01, 0.42), (0.1, 0.43))),
        a_line(CHEAP, "salera", 0.1, None, seed=1),
        *(a_line(CHEAP, "prodigy", rate, value) for rate, value in ((0.1, 0.46), (1.0, None))),
    ]
    curves = scores.curves([a_line(CHEAP, "adamw", 0.001, 9.0), *lines])  # done twice
    found = scores.scores(curves).set_index("optimizer")
    assert found["default"].to_dict() == {"adamw": 0.5, "prodigy": np.inf, "salera": 0.42}
    assert found["default_rank"].to_dict() == {"adamw": 2, "prodigy": 3, "salera": 1}
    assert found["best_rank"].to_dict() == {"adamw": 1, "prodigy": 3, "salera": 2}
    assert found["worst"]["salera"] == np.inf
    assert found["near"].to_dict() == {"adamw": 1, "prodigy": 0, "salera": 1}  # 0.44 or below
    assert found["reliable"].to_dict() == {"adamw": False, "prodigy": False, "salera": True}
    assert found["edge"].all()


def test_nearness_is_a_share_or_a_tenth_of_a_nat():
    assert TASKS["transformer"].near(1.5) == pytest.approx(1.6)
    assert TASKS["tabular"].near(1.5) == pytest.approx(1.65)


def test_the_means_over_the_tasks_keep_the_splits_apart():
    lines = [
        a_line(task, name, CONTENDERS[name].rate, value)
        for task, values in (("tabular", (1.0, 2.0)), (CHEAP, (0.6, 0.5)), ("mixer", (9.0, 8.0)))
        for name, value in zip(("adamw", "salera"), values, strict=True)
    ]
    means = scores.overall(scores.scores(scores.curves(lines)))
    assert means["tuning"]["default_rank"].to_dict() == {"adamw": 1, "salera": 2}
    assert means["confirmation"]["default_rank"].to_dict() == {"adamw": 2, "salera": 1}
    assert means["all"]["reliable"].to_dict() == pytest.approx({"adamw": 1, "salera": 2 / 3})


def test_the_tables_say_what_the_rows_say(tmp_path):
    lines = [
        *(a_line("tabular", "adamw", rate, value) for rate, value in ((0.001, 0.5), (0.01, 0.4))),
        *(a_line("tabular", "dowg", rate, value) for rate, value in ((1.0, 0.43), (10.0, None))),
    ]
    tables.write_tables(scores.curves(lines), tmp_path / "tasks.md")
    text = (tmp_path / "tasks.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["adamw", "0.001", "0.5", "0.4", "0.01 (at the edge)", "0.5", "1 of 2"] in rows
    assert ["dowg", "1", "0.43", "0.43", "1 (at the edge)", "failed", "1 of 2"] in rows
    assert ["dowg", "1.0", "2.0", "0%", "50%"] in rows
    assert ["adamw", "2.0", "1.0", "0%", "50%"] in rows
    assert "near 0.44 or below" in text


def test_ours_stand_beside_the_best_of_the_others(tmp_path):
    lines = [
        *(a_line("tabular", "adamw", rate, value) for rate, value in ((0.001, 0.5), (0.01, 0.4))),
        *(a_line("tabular", "salera", rate, value) for rate, value in ((0.01, 0.5), (0.1, 0.3))),
    ]
    tables.write_tables(scores.curves(lines), tmp_path / "tasks.md")
    text = (tmp_path / "tasks.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["tabular", "adamw from 0.01", "1.25"] in rows
    assert ["tabular", "1.67"] in rows


def test_the_command_works_from_end_to_end_and_goes_on_where_it_was(tmp_path):
    arguments = ("--only", CHEAP, "--optimizer", "adamw", "--steps", 3, "--out", tmp_path)
    result = command(*arguments, "--seeds", 1)
    assert "6 of 6 runs were new" in result.output, result.output
    first = read_lines(tmp_path / "tasks.jsonl")
    assert "6 of 12 runs were new" in command(*arguments, "--seeds", 2).output
    assert "0 of 12 runs were new" in command(*arguments, "--seeds", 2).output
    lines = read_lines(tmp_path / "tasks.jsonl")
    assert lines[:6] == first
    assert len(pd.DataFrame(lines).drop_duplicates(["seed", "learning_rate"])) == len(lines) == 12
    assert (tmp_path / "tasks.md").exists()
    assert (tmp_path / "tasks.png").stat().st_size > 10_000
