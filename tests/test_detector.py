"""The detector alone: no false alarm on a healthy loss, an alarm soon after a real jump."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salera_optax import _detector

STEPS, RUNS = 20_000, 16
SMOOTHINGS = [0.01, 0.1, 1.0]

CURVES = {
    "exponential": lambda t: 2.3 * np.exp(-t / 300) + 0.05,
    "slow": lambda t: 2.3 * np.exp(-t / 3000) + 0.3,
    "power law": lambda t: 2.3 * (1 + t / 50) ** -0.5,
    "log-likelihood": lambda t: 2.3 * np.exp(-t / 300) - 3.0,
}


@functools.cache
def compiled(smoothing, detector):
    def step(state, loss):
        one = jnp.ones(())
        verdict, state = _detector.observe(state, loss, one, smoothing, 0.1, detector, True)
        return state, verdict.catastrophe | verdict.outlier

    return jax.jit(
        jax.vmap(lambda losses: jax.lax.scan(step, _detector.init(jnp.float32), losses)[1])
    )


def alarms(losses, smoothing=0.1, detector="robust"):
    losses = jnp.atleast_2d(jnp.asarray(losses, jnp.float32))
    return np.asarray(compiled(smoothing, detector)(losses))


def healthy(curve, relative_noise=0.05, runs=RUNS, steps=STEPS):
    """A curve with minibatch noise in proportion to the loss."""
    level = CURVES[curve](np.arange(steps))
    noise = np.random.default_rng(0).standard_normal((runs, steps))
    return level + relative_noise * np.maximum(np.abs(level), 0.05) * noise


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("curve", CURVES)
def test_a_healthy_loss_raises_no_alarm_in_20_000_steps(curve, smoothing):
    assert not alarms(healthy(curve), smoothing).any()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("curve", CURVES)
def test_a_plateau_after_an_alarm_raises_no_further_one(curve, smoothing):
    losses = healthy(curve)
    losses[:, 3000] += 50
    fired = alarms(losses, smoothing)
    assert fired[:, 3000].all()
    assert fired.sum() == RUNS


def test_the_published_test_cries_wolf_on_that_plateau():
    losses = healthy("slow", relative_noise=0.2)
    losses[:, 3000] += 50
    assert alarms(losses, detector="published")[:, 3001:].sum(1).mean() > 20
    assert not alarms(losses)[:, 3001:].any()


# Steps from the jump to the alarm, at the most: the figures that the documentation states.
@pytest.mark.parametrize(
    ("smoothing", "jump", "delay"),
    [(0.01, 50, 1), (0.1, 50, 1), (1.0, 50, 1), (0.1, 20, 12), (1.0, 20, 3), (1.0, 10, 8)],
)
def test_a_lasting_jump_is_noticed_within_the_stated_delay(smoothing, jump, delay):
    rng, deviation, before = np.random.default_rng(1), 0.05, 500
    losses = 1.0 + deviation * rng.standard_normal((RUNS, before + delay))
    losses[:, before:] += jump * deviation
    losses[:, 0] = 2.3
    fired = alarms(losses, smoothing)
    assert not fired[:, :before].any()
    assert fired[:, before:].any(1).all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_loss_that_explodes_is_noticed_before_it_has_grown_tenfold(smoothing):
    losses = np.concatenate([healthy("exponential")[:, :300], np.full((RUNS, 8), np.nan)], 1)
    losses[:, 300:] = losses[:, 299:300] * 1.7 ** np.arange(1, 9)
    fired = alarms(losses, smoothing)
    assert not fired[:, :300].any()
    assert fired[:, 300:305].any(1).all()


@pytest.mark.parametrize("first", [0.0, -2.3, 1e-3])
def test_a_first_loss_of_any_sign_and_size_works(first):
    rng = np.random.default_rng(2)
    losses = first - np.linspace(0, 3, 2000) + 0.02 * rng.standard_normal((RUNS, 2000))
    losses[:, 0] = first
    losses[:, 1500:] += 5
    fired = alarms(losses)
    assert fired[:, :1500].sum(1).max() <= 2, "hardly any while the noise is unknown"
    assert fired[:, 1500].all()


def test_a_constant_loss_raises_no_alarm():
    assert not alarms(np.ones((1, 5000))).any()
    assert not alarms(np.zeros((1, 5000))).any()


def test_two_steps_by_hand():
    state = _detector.init(jnp.float32)
    verdict, state = _detector.observe(
        state, jnp.asarray(2.0), jnp.asarray(1.0), 0.5, 0.1, "published", True
    )
    assert not verdict.catastrophe
    assert (state.n, state.reference, state.smoothed, state.average) == (1, 2.0, 2.0, 2.0)
    # smoothed (2 + 2.6)/2 = 2.3, average (2 + 2.3)/2 = 2.15, statistic 0.15, threshold 0.2
    verdict, state = _detector.observe(
        state, jnp.asarray(2.6), jnp.asarray(1.0), 0.5, 0.1, "published", True
    )
    assert not verdict.catastrophe
    np.testing.assert_allclose(
        [state.smoothed, state.average, state.statistic, state.threshold],
        [2.3, 2.15, 0.15, 0.2],
        rtol=1e-6,
    )


def test_a_non_finite_loss_never_enters_a_statistic():
    state = _detector.init(jnp.float32)
    for loss in (2.0, 1.9, 1.8):
        _, state = _detector.observe(
            state, jnp.float32(loss), jnp.ones(()), 0.1, 0.1, "robust", True
        )
    for loss, norm in ((jnp.nan, 1.0), (jnp.inf, 1.0), (1.7, jnp.nan), (1.7, jnp.inf)):
        verdict, after = _detector.observe(
            state, jnp.float32(loss), jnp.float32(norm), 0.1, 0.1, "robust", True
        )
        assert verdict.nonfinite
        assert after.n == 0
        assert all(jnp.isfinite(field) for field in after)
        assert after.deviation == state.deviation
        assert after.reference == state.reference


def test_a_gradient_that_stays_large_is_accepted_in_the_end():
    state, spikes = _detector.init(jnp.float32), 0
    for norm in [1.0] * 20 + [1e4] * 100:
        verdict, state = _detector.observe(
            state, jnp.ones(()), jnp.float32(norm), 0.1, 0.1, "robust", True
        )
        spikes += bool(verdict.outlier)
    assert 20 < spikes < 60
    assert not verdict.outlier


def test_rare_gradients_among_zeros_are_no_spikes():
    state = _detector.init(jnp.float32)
    for norm in ([1.0] + [0.0] * 50) * 5:
        verdict, state = _detector.observe(
            state, jnp.ones(()), jnp.float32(norm), 0.1, 0.1, "robust", True
        )
        assert not verdict.outlier


def test_an_alarm_does_not_shorten_the_memory_of_the_noise():
    losses = 1 + 0.05 * np.random.default_rng(0).standard_normal(500)
    state, one = _detector.init(jnp.float32), jnp.ones(())
    for loss in (*losses, np.nan, *losses[:1]):
        _, state = _detector.observe(state, jnp.float32(loss), one, 0.1, 0.1, "robust", True)
    before = state.deviation
    _, state = _detector.observe(state, jnp.float32(1.5), one, 0.1, 0.1, "robust", True)
    assert state.n == 2
    assert state.seen == 502
    # One difference enters with a hundredth, and clipped to eight deviations.
    assert before < state.deviation < 1.08 * before
