"""Detectors replayed on recorded losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

RISES = [0.5, 2]
THRESHOLDS = [0.03, 0.1, 1]


def recorded(runs=2, steps=1500):
    rng = np.random.default_rng(0)
    level = 0.3 + 2 * np.exp(-np.arange(steps) / 200)
    return level * (1 + 0.1 * rng.standard_normal((runs, steps)))


def test_a_larger_threshold_costs_delay_and_saves_false_alarms():
    def found(**numbers):
        detectors = [salera_optax.published(threshold=t, **numbers) for t in THRESHOLDS]
        results = [salera_optax.calibrate(recorded(), d, rises=RISES) for d in detectors]
        return [np.array([getattr(r, name) for r in results]) for name in results[0]._fields]

    _, false_alarms, missed, delay = found()
    assert delay.shape == missed.shape == (3, 2)
    assert (np.diff(delay[:, 1]) > 0).all()
    assert (np.diff(missed, axis=0) >= 0).all()
    _, sharp, *_ = found(smoothing=1)
    assert sharp.shape == (3,)
    assert (np.diff(sharp) < 0).all()
    assert (sharp[:2] > false_alarms[:2]).all()


@pytest.mark.parametrize(
    "detector", [None, salera_optax.published(threshold=0.3)], ids=["robust", "published"]
)
def test_it_counts_the_alarms_that_the_guard_raises(detector):
    losses = recorded()
    losses[0, 700:703] = losses[1, 400:405] = losses[1, 900] = 50
    found = salera_optax.calibrate(losses, detector, rises=RISES)

    tx = salera_optax.page_hinkley(optax.sgd(0.0), detector)
    x = jnp.ones(())

    def body(state, loss):
        return tx.update(x, state, x, value=loss)[1], None

    states = jax.vmap(lambda run: jax.lax.scan(body, tx.init(x), run)[0])(jnp.float32(losses))
    counted = jax.vmap(salera_optax.metrics)(states)["alarms"].sum()
    assert counted >= 2
    np.testing.assert_allclose(found.false_alarms, counted / losses.size)


def test_it_replays_a_detector_of_one_s_own():
    def observe(last, loss, gradient_norm):
        del gradient_norm
        alarm = loss > 10.0
        return salera_optax.Verdict(~alarm, alarm, alarm), loss

    detector = salera_optax.Detector(init=lambda dtype: jnp.zeros((), dtype), observe=observe)
    losses = np.ones((2, 400))
    losses[1, :3] = 20
    found = salera_optax.calibrate(losses, detector, rises=[5, 10])
    np.testing.assert_allclose(found.false_alarms, 3 / 800)
    np.testing.assert_array_equal(found.missed, [1, 0])
    np.testing.assert_array_equal(found.delay, [np.nan, 0])


def test_a_rise_in_the_noise_is_missed_and_has_no_delay():
    found = salera_optax.calibrate(recorded(), rises=[0.01, 2])
    np.testing.assert_array_equal(found.rises, [0.01, 2])
    np.testing.assert_array_equal(found.missed, [1, 0])
    np.testing.assert_array_equal(np.isnan(found.delay), [True, False])


def test_a_run_that_goes_well_has_no_false_alarm():
    assert salera_optax.calibrate(recorded(runs=8)).false_alarms == 0


def test_shorter_runs_are_filled_up_with_nan():
    losses = recorded()
    losses[1, 1000:] = np.nan
    whole, filled = (salera_optax.calibrate(x, rises=RISES) for x in (recorded(), losses))
    losses[:, 700:703] = 50
    alarms = salera_optax.calibrate(losses, rises=RISES).false_alarms
    np.testing.assert_allclose(alarms, 2 / 2500)
    assert filled.missed[1] == 0
    assert abs(filled.delay - whole.delay)[1] < 3


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"losses": [1.0]}, ValueError, r"losses must have the shape .* got \(1,\)"),
        ({"losses": ["a", "b"]}, TypeError, "losses must be real numbers"),
        ({"rises": [0.1, 0]}, ValueError, r"rises must be .* greater than 0, got \[0.1"),
        ({"rises": np.inf}, ValueError, "rises must be .* finite .* got inf"),
        ({"detector": "guess"}, TypeError, "detector must be a .*Detector.*got 'guess'"),
        ({"detector": salera_optax.robust}, TypeError, "detector must be a .*Detector.*got"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        salera_optax.calibrate(**{"losses": np.ones(10)} | arguments)
