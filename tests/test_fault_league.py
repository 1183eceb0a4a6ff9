"""The league of faults: the runs, the rival guard written for it, and the command."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner

from benchmarks import data, models
from benchmarks.__main__ import main
from benchmarks.fault_map import save_fault_map
from benchmarks.faults import EVERY, FAULTS, case, runner
from benchmarks.faults_command import RESULTS, read, starts, summary, write_tables
from benchmarks.guards import GUARDS, REPLICAS, skip_step

STEPS, START, WINDOW = 40, 20, 128


@pytest.mark.parametrize(
    ("name", "survives"),
    [("salera(0.1)", True), pytest.param("Adam, unguarded", False, marks=pytest.mark.slow)],
)
def test_a_fault_strikes_every_run_and_only_a_guard_survives(name: str, survives: bool):
    run = runner(GUARDS[name], models.MLP((8,)), data.load("digits"), STEPS)
    names = ["no fault", "NaN on one replica", "bit flip"]
    cases = [case(FAULTS[fault], START, 0) for fault in names]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    runs = jax.jit(lambda cases: jax.lax.map(run, cases))(batch)  # vmap takes longer to compile
    before = START // EVERY
    assert runs.united.all(), "the replicas take the same steps"
    np.testing.assert_array_equal(runs.errors[:, :before], runs.errors[[0] * 3, :before])
    assert (runs.losses[1:, before] != runs.losses[0, before]).all()
    well = runs.losses[1:, -1] < runs.losses[1:, before - 1]  # it learns on; not so if NaN
    assert (well == survives).all()
    alarms = [np.flatnonzero(row).tolist() for row in np.asarray(runs.alarms)]
    assert alarms[:2] == [[], []], "a NaN is held"
    assert (len(alarms[2]) == 1) == survives, "a weight that is lost looks like a bad step"


def test_skip_step_skips_what_a_plain_loop_skips_and_lets_nothing_pass_behind_a_nan():
    generator = np.random.default_rng(0)
    losses = generator.normal(1, 0.1, 400).astype(np.float32)
    norms = generator.normal(2, 0.1, 400).astype(np.float32)
    losses[[10, 100]], norms[90], losses[200] = 9, 9, np.nan
    expected = np.zeros(400, bool)
    for step in range(WINDOW // 2, 400):
        for values in (losses.astype(np.float64), norms.astype(np.float64)):
            window = values[max(step - WINDOW, 0) : step]
            bound = window.mean() + 6 * window.std(ddof=1)
            expected[step] |= not values[step] <= bound
    tx = skip_step(optax.sgd(1.0), REPLICAS)

    def one_step(carry: tuple, loss_and_norm: tuple) -> tuple:
        x, state = carry
        loss, norm = loss_and_norm
        updates, state = tx.update(norm * jnp.ones(1), state, x, value=loss)
        return (x + updates, state), (state.alarm, updates[0])

    def run(losses: jax.Array) -> tuple:
        start = (jnp.zeros(1), tx.init(jnp.zeros(1)))
        return jax.lax.scan(one_step, start, (losses, jnp.asarray(norms)))[1]

    skipped, moves = jax.vmap(run, axis_name=REPLICAS)(losses[None])
    np.testing.assert_array_equal(skipped[0], expected)
    assert expected[90]
    assert expected[100]
    assert expected[200 : 200 + WINDOW + 1].all()
    np.testing.assert_array_equal(moves[0], np.where(expected, 0, -norms))


def test_tables_and_picture_are_made_of_the_numbers(tmp_path: Path):
    numbers = json.loads((RESULTS / "faults.json").read_text())
    assert [row["guard"] for row in numbers["rows"][:: len(FAULTS)]] == list(GUARDS)
    write_tables(numbers, tmp_path / "faults.md")
    assert (tmp_path / "faults.md").read_text() == (RESULTS / "faults.md").read_text()
    save_fault_map(summary(read(numbers)), tmp_path / "faults.png")
    assert (tmp_path / "faults.png").stat().st_size > 10_000


def test_a_run_that_never_recovers_counts_in_the_median():
    row = {"guard": "a", "fault": "b", "start": [5] * 3, "survived": [True, False, False]}
    row |= {"recovery": [10, 0, 0], "error": [1, 2, 90], "loss": [0.1, 0.2, None]}
    row |= {"alarms": [0, 1, 2], "delay": [None, 0, 1]}
    (cell,) = summary(read({"rows": [row]})).to_dict("records")
    assert (cell["runs"], cell["survived"], cell["all_alarms"]) == (3, 1, 3)
    assert (cell["recovery"], cell["error"], cell["loss"]) == (np.inf, 2, 0.2)


def test_faults_start_where_a_run_is_evaluated():
    assert all(0 < start < 100 and start % EVERY == 0 for start in starts(100))


def test_too_short_a_run_is_refused():
    result = CliRunner().invoke(main, ["faults", "--steps", "99"])
    assert "Invalid value for '--steps': 99 is not in the range x>=100." in result.output
