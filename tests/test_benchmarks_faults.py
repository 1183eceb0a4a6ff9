"""The league of faults: the runs, the rival guards written for it, and the command."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner

from benchmarks import data, models
from benchmarks.__main__ import main
from benchmarks.faults.guards import GUARDS, REPLICAS
from benchmarks.faults.injection import EVERY, FAULTS, case, runner
from benchmarks.faults.measure import starts
from benchmarks.faults.picture import save_picture
from benchmarks.faults.rivals import skip_and_clip, skip_step, zclip
from benchmarks.faults.scores import as_frame, summary
from benchmarks.faults.tables import write_tables
from benchmarks.paths import COMMITTED

STEPS, START, WINDOW = 40, 20, 128
WARMUP = [0.175, 0.425] * 8 + [0.3] * 9  # norms of mean 0.3 and variance 16/25 x 0.125^2 = 0.1^2


@pytest.mark.parametrize(
    ("name", "survives"),
    [("salera_adamw", True), pytest.param("Adam, unguarded", False, marks=pytest.mark.slow)],
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
    for step in range(WINDOW // 2 - 1, 400):
        for values in (losses.astype(np.float64), norms.astype(np.float64)):
            window = values[max(step - WINDOW, 0) : step]
            bound = window.mean() + 6 * window.std(ddof=1)
            expected[step] |= not values[step] <= bound
    moves, states = run_of(skip_step(optax.sgd(1.0), REPLICAS), norms[:, None], losses)
    np.testing.assert_array_equal(states.alarm, expected)
    assert expected[90]
    assert expected[100]
    assert expected[200 : 200 + WINDOW + 1].all()
    np.testing.assert_array_equal(moves[:, 0], np.where(expected, 0, -norms))


@pytest.mark.parametrize(
    ("step", "loss", "skipped"),
    [
        (62, 1e3, False),  # too early
        (63, 1e3, True),
        (64, 7.04, False),  # mean 1 and sample deviation sqrt(64 / 63) of 32 zeros and 32 twos
        (64, 7.06, True),
        (64, np.nan, True),
    ],
)
def test_skip_step_starts_with_the_64th_step_and_takes_the_sample_deviation(step, loss, skipped):
    losses = np.where(np.arange(step + 1) % 2, 2, 0).astype(np.float32)
    losses[-1] = loss
    _, states = run_of(skip_step(optax.sgd(1.0), REPLICAS), np.ones((step + 1, 1)), losses)
    np.testing.assert_array_equal(np.flatnonzero(states.alarm), [step] if skipped else [])


@pytest.mark.parametrize(("nan_passes", "move"), [(True, np.nan), (False, 0)])
def test_skip_step_holds_a_nan_as_maxtext_does_and_then_all_else_for_a_window(nan_passes, move):
    gradients = np.where(np.arange(300) % 2, 2, 1).astype(np.float32)[:, None]
    gradients[100] = np.nan
    tx = skip_step(optax.sgd(1.0, momentum=0.5), REPLICAS, nan_passes)
    moves, states = run_of(tx, gradients, np.ones(300))
    skipped = np.arange(100, 101 + WINDOW)
    np.testing.assert_array_equal(np.flatnonzero(states.alarm), skipped)
    np.testing.assert_array_equal(moves[skipped[0]], move)
    np.testing.assert_array_equal(moves[skipped[1:]], 0)
    assert np.isfinite(moves[skipped[-1] + 1 :]).all(), "the momentum was held"


def test_skip_and_clip_skips_a_norm_of_100_or_none_and_clips_the_others():
    gradients = [[0.3, 0.4], [60, 80], [np.nan, 0], [0, np.inf], [3, 4], [59, 80]]
    expected = [[0.3, 0.4], [0, 0], [0, 0], [0, 0]]
    expected += [[0.15 + 0.6, 0.2 + 0.8]]  # the momentum of the first, and 1 / 5 of the fifth
    norm = np.hypot(59, 80)  # just below 100
    expected += [[0.375 + 59 / norm, 0.5 + 80 / norm]]
    tx = skip_and_clip(optax.sgd(1.0, momentum=0.5))
    moves, states = run_of(tx, np.array(gradients), np.ones(6))
    np.testing.assert_array_equal(states.alarm, [False, True, True, True, False, False])
    np.testing.assert_allclose(moves, -np.array(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("norm", "left"),
    [(0.54, 0.54), (0.8, 0.3 + 2.5**2 * 0.1 / 5), (1.3, 0.3 + 2.5**2 * 0.1 / 10)],
    ids=["z = 2.4", "z = 5", "z = 10"],
)
def test_zclip_clips_a_norm_that_stands_out_and_counts_it_as_clipped(norm: float, left: float):
    norms = [*WARMUP, norm]
    moves, (states, _) = run_of(optax.chain(zclip(), optax.sgd(1.0)), norms, np.ones(26))
    np.testing.assert_allclose(moves[:, 0], -np.array([*WARMUP, left]), rtol=1e-4)
    mean = 0.97 * 0.3 + 0.03 * left
    variance = 0.97 * 0.01 + 0.03 * (left - mean) ** 2
    np.testing.assert_allclose(states.mean[24:], [0.3, mean], rtol=1e-5)
    np.testing.assert_allclose(states.variance[24:], [0.01, variance], rtol=1e-4)


def test_zclip_lets_a_nan_pass_and_clips_to_1_only_ever_after():
    norms = [5, *WARMUP[1:], 100, np.nan, 0.3, 100]
    moves, (states, _) = run_of(optax.chain(zclip(), optax.sgd(1.0)), norms, np.ones(29))
    assert moves[0] == pytest.approx(-1, rel=1e-5), "clipped to 1 in the warmup as well"
    assert states.mean[24] == pytest.approx(0.3 + (5 - 0.175) / 25), "but not for the mean"
    assert -1 < moves[25] < -states.mean[24], "close to the mean"
    assert np.isnan(moves[26])
    np.testing.assert_allclose(moves[27:, 0], [-0.3, -1], rtol=1e-5)


def run_of(tx: optax.GradientTransformation, gradients: Any, losses: Any) -> tuple[Any, Any]:
    """The moves and states of all steps on one replica."""
    gradients, losses = (jnp.asarray(array, jnp.float32) for array in (gradients, losses))
    gradients = gradients.reshape(len(losses), -1)
    tx = optax.with_extra_args_support(tx)

    def one_step(state: Any, given: tuple) -> tuple:
        moves, state = tx.update(given[0], state, value=given[1])
        return state, (moves, state)

    def run(gradients: jax.Array, losses: jax.Array) -> Any:
        return jax.lax.scan(one_step, tx.init(gradients[0]), (gradients, losses))[1]

    both = jax.vmap(run, axis_name=REPLICAS)(gradients[None], losses[None])
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), both)


def test_tables_and_picture_are_made_of_the_numbers(tmp_path: Path):
    numbers = json.loads((COMMITTED / "faults.json").read_text())
    assert [row["guard"] for row in numbers["rows"][:: len(FAULTS)]] == list(GUARDS)
    write_tables(numbers, tmp_path / "faults.md")
    text = (tmp_path / "faults.md").read_text().replace(str(tmp_path), "benchmarks/results")
    assert text == (COMMITTED / "faults.md").read_text()
    save_picture(summary(as_frame(numbers)), tmp_path / "faults.png")
    assert (tmp_path / "faults.png").stat().st_size > 10_000


def test_a_run_that_never_recovers_counts_in_the_median():
    row = {"guard": "a", "fault": "b", "start": [5] * 3, "survived": [True, False, False]}
    row |= {"recovery": [10, 0, 0], "error": [1, 2, 90], "loss": [0.1, 0.2, None]}
    row |= {"alarms": [0, 1, 2], "delay": [None, 0, 1]}
    (cell,) = summary(as_frame({"rows": [row]})).to_dict("records")
    assert (cell["runs"], cell["survived"], cell["all_alarms"]) == (3, 1, 3)
    assert (cell["recovery"], cell["error"], cell["loss"]) == (np.inf, 2, 0.2)


def test_faults_start_where_a_run_is_evaluated():
    assert all(0 < start < 100 and start % EVERY == 0 for start in starts(100))


def test_too_short_a_run_is_refused():
    result = CliRunner().invoke(main, ["faults", "--steps", "99"])
    assert "Invalid value for '--steps': 99 is not in the range x>=100." in result.output
