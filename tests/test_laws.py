"""The laws of the rate: by hand, by Monte Carlo, and what they make of the extremes.

A sampled moment must lie within four of its own standard errors of the law; the seeds are fixed.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle_laws
import pytest
from scipy.special import digamma, polygamma

import salera_optax
from salera_optax import path_mean, path_std, ratio, score

DIMENSIONS = (1, 2, 3, 10, 1000)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def squared_norms_of_walks(alpha, d, t, count):
    rng = np.random.default_rng([d, t])
    paths = 0
    for _ in range(t):
        directions = rng.standard_normal((count, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        paths = (1 - alpha) * paths + alpha * directions
    return (paths**2).sum(axis=1)


def test_ratio_by_hand():
    # alpha = 1/2, t = 2, d = 9: mean 5/16, deviation 1/12, so s = 4/15.
    s = 4 / 15
    x = math.log(2) + s**2 / 2 + s**4 / 12
    change = float(ratio(0.1)(0.625, 0.5, 2, 9))
    assert change == pytest.approx(0.1 * x * x / (x + s), rel=1e-12)
    x = -math.log(2) + s**2 / 2 + s**4 / 12
    change = float(ratio(0.1)(0.15625, 0.5, 2, 9))
    assert change == pytest.approx(-0.1 * x * x / (-x + s), rel=1e-12)


def test_score_by_hand():
    # alpha = 1/2, t = 2: mean 5/16; the deviation of many steps is sqrt(4/45 / d).
    change = float(score(0.1)(0.5, 0.5, 2, 5))
    assert change == pytest.approx(0.1 * (0.5 - 5 / 16) / math.sqrt(4 / 45 / 5), rel=1e-12)
    change = float(score(0.1, std="authors")(0.5, 0.5, 2, 4))
    assert change == pytest.approx(0.1 * (0.5 - 5 / 16) / 0.25, rel=1e-12)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_logarithm_of_the_squared_norm_is_that_of_a_gamma_variable(d):
    alpha, t = 0.02, 400
    squared = squared_norms_of_walks(alpha, d, t, {1000: 60}.get(d, 3000))
    y = np.log(squared / float(path_mean(alpha, t)))
    k = float(path_mean(alpha, t) / path_std(alpha, d, t)) ** 2
    assert abs(y.mean() - digamma(k) + math.log(k)) < 4 * y.std() / math.sqrt(y.size)
    fourth = ((y - y.mean()) ** 4).mean()
    error = math.sqrt((fourth - y.var() ** 2) / y.size)
    assert abs(y.var() - polygamma(1, k)) < 4 * error


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_series_is_near_the_mean_of_the_logarithm(d):
    s, k = math.sqrt(2 / d), d / 2
    assert s**2 / 2 + s**4 / 12 == pytest.approx(math.log(k) - digamma(k), rel=0.05 / d)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_under_the_random_walk_ratio_hardly_drifts(d):
    squared = squared_norms_of_walks(0.1, d, 100, {1000: 60}.get(d, 3000))
    changes = np.asarray(ratio(1.0)(jnp.array(squared), 0.1, 100, d))
    assert abs(changes.mean()) < 0.1
    if d >= 10:
        assert abs(changes.mean()) < 0.015


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (ratio(0.1), oracle_laws.Ratio(0.1)),
        (ratio(0.1, rest=-0.3), oracle_laws.Ratio(0.1, rest=-0.3)),
        (score(0.1), oracle_laws.Score(0.1)),
        (score(0.1, "authors"), oracle_laws.Score(0.1, "authors")),
    ],
)
def test_every_law_agrees_with_the_plain_version(ours, plain):
    alpha = 0.1
    cases = [
        (factor * oracle_laws.path_mean(alpha, t), alpha, t, d)
        for factor in (1e-9, 0.3, 1.0, 1.7, 1e9)
        for t in (1, 2, 50, 10_000)
        for d in DIMENSIONS
    ]
    changes = jax.jit(ours)(*map(jnp.array, zip(*cases, strict=True)))
    expected = [plain(*case) for case in cases]
    np.testing.assert_allclose(changes, expected, rtol=1e-9, atol=1e-12)


def test_agreement_and_disagreement_of_one_size_move_a_rate_as_far():
    alpha, d = 0.01, 10**6
    mean = path_mean(alpha, 10**4)
    for factor in (1.5, 3.0, 100.0):
        up, down = (float(ratio(1.0)(mean * f, alpha, 10**4, d)) for f in (factor, 1 / factor))
        assert up == pytest.approx(min(math.log(factor), 2), abs=2e-3)
        assert down == pytest.approx(-up, abs=2e-3)


@pytest.mark.parametrize("rest", [-0.3, 0.0, 0.2])
def test_a_rate_rests_where_it_is_told_to(rest):
    alpha, d = 0.01, 10**6
    mean = path_mean(alpha, 10**4)
    below, there, above = (
        float(ratio(1.0, rest)(mean * math.exp(rest + off), alpha, 10**4, d))
        for off in (-0.1, 0.0, 0.1)
    )
    assert below < -0.09
    assert abs(there) < 1e-4
    assert above > 0.09


def test_ratio_asks_larger_leaves_for_no_less_agreement():
    changes = [float(ratio(1.0)(0.02, 0.01, 10**4, d)) for d in (100, 10**4, 10**6, 10**8)]
    assert max(changes) / min(changes) < 1.1
    changes = [float(score(1.0)(0.02, 0.01, 10**4, d)) for d in (100, 10**8)]
    assert changes[1] / changes[0] == pytest.approx(1000)


@pytest.mark.parametrize("law", [ratio(0.1), score(0.1)])
def test_an_empty_group_never_changes_its_rate(law):
    assert float(law(jnp.array(0.0), jnp.array(0.1), jnp.array(3), jnp.array(0.0))) == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_ratio_is_finite_whatever_comes(dtype):
    given = np.meshgrid([0.0, 1e-300, 1e-30, 1.0], [1e-4, 0.1, 1.0], [1, 2, 10**9], DIMENSIONS)
    squared_norm, alpha, t, d = (jnp.array(np.ravel(x)) for x in given)
    changes = jax.jit(ratio(0.01))(
        squared_norm.astype(dtype), alpha.astype(dtype), t, d.astype(dtype)
    )
    assert changes.dtype == dtype
    assert float(jnp.abs(changes).max()) <= 3 * 0.0201


def test_a_path_of_length_zero_changes_nothing_under_ratio():
    assert float(ratio(0.1)(0.0, 0.1, 5, 3)) == 0


def test_a_path_without_memory_says_nothing():
    for law in (ratio(0.1), score(0.1)):
        assert float(law(1.0, 1.0, 5, 3)) == pytest.approx(0, abs=1e-12)


def test_gains_may_be_traced():
    def change(gain, law):
        return law(gain)(0.3, 0.1, 5, 3)

    for law in (ratio, score):
        assert jax.jit(change, static_argnums=1)(0.1, law) == pytest.approx(change(0.1, law))


@pytest.mark.parametrize(
    "make", [salera_optax.scale_by_alera, salera_optax.scale_by_parameterwise_alera]
)
def test_without_a_gradient_the_rate_stays_under_ratio_and_falls_under_score(make):
    for law, stays in ((ratio(0.1), True), (score(0.1), False)):
        tx = make(0.1, law)
        update = jax.jit(tx.update)
        params = {"used": jnp.ones(4), "new": jnp.ones(3)}
        zeros = jax.tree.map(jnp.zeros_like, params)
        state = tx.init(params)
        _, state = update({**params, "new": zeros["new"]}, state)
        _, state = update(zeros, state)
        before = state.log_rate
        for _ in range(5):
            _, state = update(zeros, state)
        same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), state.log_rate, before)
        assert jax.tree.leaves(same) == [stays] * 2
        assert jax.tree.all(jax.tree.map(lambda p: bool(jnp.isfinite(p).all()), state))


def test_a_law_of_the_users_own_is_given_the_path_and_sets_the_rate():
    seen = []

    def law(squared_norm, alpha, step, d):
        jax.debug.callback(lambda *given: seen.append(given), squared_norm, alpha, step, d)
        assert {jnp.shape(x) for x in (squared_norm, alpha, step, d)} == {()}
        return jnp.asarray(0.25)

    tx = salera_optax.scale_by_alera(0.5, law)
    grads = jnp.array([3.0, 4.0])
    state = tx.init(grads)
    updates, state = tx.update(grads, state)
    updates, state = tx.update(grads, state)
    jax.effects_barrier()
    np.testing.assert_allclose(seen, [[0.25, 0.5, 1, 2], [0.5625, 0.5, 2, 2]])
    np.testing.assert_allclose(updates, math.exp(0.5) * grads)


def test_the_paper_to_the_letter_is_one_expression():
    tx = salera_optax.salera(
        0.1,
        law=score(3e-6, std="authors"),
        groups=salera_optax.by_module,
        detector=salera_optax.published(smoothing=0.01),
        reset_path=False,
        rollback=False,
    )
    params = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    _, state = tx.update(params, tx.init(params), params, value=1.0)
    assert list(state.inner_state[1].log_rate) == ["layer"]


# What the gradients of one group are, step by step, and what the rate makes of it.


def rates(gradients, law=None, alpha=0.02):
    """Logarithm of the rate after every step; gradients of the shape (steps, d)."""
    tx = salera_optax.scale_by_alera(alpha, law)

    def step(state, gradient):
        _, state = tx.update(gradient, state)
        return state, state.log_rate[""]

    gradients = jnp.asarray(gradients)
    return np.asarray(jax.jit(lambda g: jax.lax.scan(step, tx.init(g[0]), g)[1])(gradients))


def directions(steps, d=50, seed=0):
    """Independent unit vectors."""
    drawn = np.random.default_rng(seed).standard_normal((steps, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "norms",
    [
        lambda rng, steps: np.ones(steps),
        lambda rng, steps: rng.lognormal(0, 2, steps),
        lambda rng, steps: np.abs(rng.standard_t(1.5, steps)),
        lambda rng, steps: np.where(rng.random(steps) < 0.7, 0.0, 1.0),
        lambda rng, steps: np.geomspace(1, 1e-6, steps),
        lambda rng, steps: np.where(np.arange(steps) < steps // 2, 1.0, 1e-4),
        lambda rng, steps: np.where(np.arange(steps) < steps // 2, 1e-4, 1.0),
        lambda rng, steps: np.where(np.arange(steps) == 500, 1e6, 1.0),
    ],
    ids=["equal", "lognormal", "t(1.5)", "rare", "falling", "a fall", "a rise", "an outlier"],
)
def test_directions_at_random_move_no_rate_for_long_whatever_their_lengths(norms):
    rng = np.random.default_rng(1)
    gradients = directions(3000) * norms(rng, 3000)[:, None]
    moved = rates(gradients)
    assert np.abs(moved).max() < 1.5
    assert abs(moved[-1]) < 1


def test_many_small_gradients_that_agree_do_not_outvote_the_few_that_are_large():
    # As in a network that has learned nine examples of ten: each asks for larger weights, a little.
    steps = 3000
    rng = np.random.default_rng(2)
    small = np.zeros((steps, 50))
    small[:, 0] = 0.002
    gradients = np.where(rng.random((steps, 1)) < 0.1, directions(steps), small)
    moved = rates(gradients)  # a little, until the usual norm is known
    assert moved[-1] < 5
    assert moved[-1] - moved[1000] < 1
    assert rates(gradients, score(2e-3))[-1] > 50  # in the paper's path they do


def test_after_a_fall_of_the_gradients_their_agreement_is_seen_again():
    steps = 1000
    agreeing = np.zeros((steps, 50))
    agreeing[:, 0] = 1
    gradients = np.concatenate([directions(steps), 1e-4 * agreeing])
    moved = rates(gradients)
    seen = np.argmax(moved[steps:] > moved[steps - 1] + 0.5)
    assert 0 < seen < 400
