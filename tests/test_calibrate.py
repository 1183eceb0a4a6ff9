"""Thresholds replayed on recorded losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

ARGUMENTS = {"thresholds": [0.03, 0.1, 1], "rises": [0.5, 2]}


def recorded(runs=2, steps=1500):
    rng = np.random.default_rng(0)
    level = 0.3 + 2 * np.exp(-np.arange(steps) / 200)
    return level * (1 + 0.1 * rng.standard_normal((runs, steps)))


def test_a_larger_threshold_costs_delay_and_saves_false_alarms():
    arguments = ARGUMENTS | {"detector": "published"}
    found = salera_optax.calibrate(recorded(), **arguments)
    assert found.delay.shape == found.missed.shape == (3, 2)
    assert (np.diff(found.delay[:, 1]) > 0).all()
    assert (np.diff(found.missed, axis=0) >= 0).all()
    sharp = salera_optax.calibrate(recorded(), smoothing=1, **arguments)
    assert sharp.false_alarms.shape == (3,)
    assert (np.diff(sharp.false_alarms) < 0).all()
    assert (sharp.false_alarms[:2] > found.false_alarms[:2]).all()


def test_it_counts_the_alarms_that_the_guard_raises():
    losses = recorded()
    losses[0, 700] = losses[1, 400:405] = 50
    found = salera_optax.calibrate(losses, **ARGUMENTS)

    tx = salera_optax.page_hinkley(optax.sgd(0.0), threshold=0.1)
    x = jnp.ones(())

    def body(state, loss):
        return tx.update(x, state, x, value=loss)[1], None

    states = jax.vmap(lambda run: jax.lax.scan(body, tx.init(x), run)[0])(jnp.float32(losses))
    counted = salera_optax.metrics(states)["alarms"].sum()
    assert counted >= 2
    np.testing.assert_allclose(found.false_alarms[1], counted / losses.size)


def test_a_rise_in_the_noise_is_missed_and_has_no_delay():
    found = salera_optax.calibrate(recorded(), **ARGUMENTS | {"rises": [0.01, 2]})
    assert (found.missed == [1, 0]).all()
    np.testing.assert_array_equal(np.isnan(found.delay), found.missed == 1)


def test_shorter_runs_are_filled_up_with_nan():
    losses = recorded()
    losses[1, 1000:] = np.nan
    whole, filled = (salera_optax.calibrate(x, **ARGUMENTS) for x in (recorded(), losses))
    losses[0, 700] = losses[1, 700] = 50
    alarms = salera_optax.calibrate(losses, **ARGUMENTS).false_alarms
    np.testing.assert_allclose(alarms, 2 / 2500)
    assert (filled.missed[:, 1] == 0).all()
    assert (abs(filled.delay - whole.delay)[:, 1] < 3).all()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"losses": [1.0]}, ValueError, r"losses must have the shape .* got \(1,\)"),
        ({"losses": ["a", "b"]}, TypeError, "losses must be real numbers"),
        ({"thresholds": [0.1, 0]}, ValueError, r"thresholds must be .* greater than 0, got \[0.1"),
        ({"rises": np.inf}, ValueError, "rises must be .* finite .* got inf"),
        ({"smoothing": 2}, ValueError, r"smoothing must be in \(0, 1\], got 2"),
        ({"detector": "guess"}, ValueError, "detector must be one of"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        salera_optax.calibrate(**{"losses": np.ones(10)} | arguments)
