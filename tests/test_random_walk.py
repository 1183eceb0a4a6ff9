"""The laws of the random walk that ALERA compares with, by Monte Carlo and at points known by hand.

A sampled moment must lie within four of its own standard errors of the law; the seeds are fixed.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salera_optax import path_mean, path_std

LIMIT = math.inf
# alpha, d, t and how many walks. After 12/alpha steps a limit is closer than any standard error.
WALKS = [
    (0.5, 1, 2, 40_000),
    (0.5, 2, 3, 40_000),
    (0.5, 3, LIMIT, 40_000),
    (0.1, 1, LIMIT, 40_000),
    (0.1, 2, 5, 40_000),
    (0.1, 3, LIMIT, 20_000),
    (0.1, 10, 20, 20_000),
    (0.1, 100, LIMIT, 4_000),
    (0.01, 1, 30, 20_000),
    (0.01, 3, 100, 10_000),
    (0.01, 10, LIMIT, 2_000),
]
COORDINATES = [
    (0.5, 2, 3, 40_000),
    (0.5, 3, LIMIT, 40_000),
    (0.1, 2, LIMIT, 20_000),
    (0.1, 10, 4, 20_000),
    (0.1, 100, LIMIT, 5_000),
]


@dataclasses.dataclass
class Moment:
    """A sampled mean or variance, and its standard error."""

    value: float
    error: float

    def agrees_with(self, law):
        return abs(self.value - law) < 4 * self.error


def mean(samples):
    return Moment(samples.mean(), samples.std() / math.sqrt(samples.size))


def variance(samples):
    centred = samples - samples.mean()
    fourth, second = (centred**4).mean(), (centred**2).mean()
    return Moment(second, math.sqrt((fourth - second**2) / samples.size))


def walks(alpha, d, t, count, *, is_complex=False):
    """The paths of `count` independent walks after `t` steps, one a row."""
    rng = np.random.default_rng([round(1000 * alpha), d, 0 if t == LIMIT else t])
    paths = 0
    for _ in range(round(12 / alpha) if t == LIMIT else t):
        directions = rng.standard_normal((count, d))
        if is_complex:
            directions = directions + 1j * rng.standard_normal((count, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        paths = (1 - alpha) * paths + alpha * directions
    return paths


def coordinate_variance(alpha, d, t):
    """Exact variance of one squared coordinate of the path.

    With S the sum of w_k^2, Q that of w_k^4, and u_1^4 of mean 3/(d(d+2)) on the sphere,
    Var = 2 S^2/d^2 - 6 Q/(d^2(d+2)), and the norm's variance is 2 (S^2 - Q)/d.
    """
    q = (1 - alpha) ** 2
    sum_of_fourth_powers = alpha**4 * (1 - q ** (2 * t)) / (1 - q**2)
    shared = float(path_std(alpha, d, t)) ** 2 / d
    return shared + 2 * (d - 1) / (d**2 * (d + 2)) * sum_of_fourth_powers


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("alpha", "d", "t", "count"), WALKS)
def test_the_squared_norm_of_a_walk_has_the_stated_mean_and_deviation(alpha, d, t, count):
    squared_norm = (walks(alpha, d, t, count) ** 2).sum(axis=1)
    assert mean(squared_norm).agrees_with(path_mean(alpha, t))
    assert variance(squared_norm).agrees_with(path_std(alpha, d, t) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "d", "t", "count"),
    [(0.001, 3, LIMIT, 2_000), (0.01, 100, LIMIT, 2_000), (0.1, 1000, LIMIT, 2_000)],
)
def test_the_laws_hold_at_long_memories_and_in_high_dimensions(alpha, d, t, count):
    paths = walks(alpha, d, t, count)
    squared_norm, squared_coordinate = (paths**2).sum(axis=1), paths[:, 0] ** 2
    assert mean(squared_norm).agrees_with(path_mean(alpha, t))
    assert variance(squared_norm).agrees_with(path_std(alpha, d, t) ** 2)
    assert mean(squared_coordinate).agrees_with(path_mean(alpha, t) / d)
    assert variance(squared_coordinate).agrees_with(coordinate_variance(alpha, d, t))


def test_the_printed_equation_5_and_the_authors_deviation_are_refuted():
    alpha, d, t = 0.1, 3, 20
    sampled = variance((walks(alpha, d, t, 20_000) ** 2).sum(axis=1))
    q = (1 - alpha) ** 2
    scale = alpha**2 * q / (d * (2 - alpha) ** 2 * (1 + q))
    printed = 2 * scale * (1 - (1 - alpha) ** t) * (1 - (1 - alpha) ** (t - 1))
    assert sampled.agrees_with(4 * scale * (1 - q**t) * (1 - q ** (t - 1)))
    assert not sampled.agrees_with(printed)
    assert not sampled.agrees_with(2 * printed)
    assert not sampled.agrees_with(alpha**2 / d)


@pytest.mark.parametrize(("alpha", "d", "t"), [(0.5, 1, 3), (0.1, 2, LIMIT), (0.1, 10, 20)])
def test_a_complex_coordinate_counts_as_two(alpha, d, t):
    squared_modulus = np.abs(walks(alpha, d, t, 20_000, is_complex=True)) ** 2
    squared_norm = squared_modulus.sum(axis=1)
    assert mean(squared_norm).agrees_with(path_mean(alpha, t))
    assert variance(squared_norm).agrees_with(path_std(alpha, 2 * d, t) ** 2)
    assert mean(squared_modulus[:, 0]).agrees_with(2 / (2 * d) * path_mean(alpha, t))


@pytest.mark.parametrize(("alpha", "d", "t", "count"), COORDINATES)
def test_a_squared_coordinate_has_its_share_of_the_mean_and_the_exact_variance(alpha, d, t, count):
    squared_coordinate = walks(alpha, d, t, count)[:, 0] ** 2
    assert mean(squared_coordinate).agrees_with(path_mean(alpha, t) / d)
    assert variance(squared_coordinate).agrees_with(coordinate_variance(alpha, d, t))


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("d", [1, 2, 10, 100, 10**6])
def test_the_share_of_the_deviation_is_nearly_that_of_a_coordinate(alpha, d):
    used = float(path_std(alpha, d)) / math.sqrt(d)
    exact = math.sqrt(coordinate_variance(alpha, d, LIMIT))
    # Never above the exact deviation; below it by alpha/2 at most for small alpha, 6 % at 0.1.
    bound = alpha * (2 - alpha) / (4 * (1 - alpha) ** 2)
    assert used <= exact * (1 + 1e-12)
    assert exact / used - 1 <= bound
    if d == 1:
        assert exact == pytest.approx(used, rel=1e-12)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 1e-2, 0.1, 0.5])
@pytest.mark.parametrize("t", [1, 2, 10, 1000, 10**6, LIMIT])
def test_the_mean_is_as_accurate_in_float32_as_the_dtype_allows(alpha, t):
    narrow = path_mean(jnp.float32(alpha), t)
    exact = float(np.float32(alpha))  # what the narrow computation was given
    reference = -exact / (2 - exact) * math.expm1(2 * t * math.log1p(-exact))
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 1e-2, 0.1, 0.5])
@pytest.mark.parametrize("t", [2, 10, 1000, LIMIT])
def test_the_deviation_is_as_accurate_in_float32_as_the_dtype_allows(alpha, t):
    narrow = path_std(jnp.float32(alpha), 7, t)
    reference = float(path_std(float(np.float32(alpha)), 7, t))
    assert narrow.dtype == jnp.float32
    assert float(narrow) == pytest.approx(reference, rel=2e-6)


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.5, 1.0])
def test_the_first_step_has_a_certain_length(alpha):
    assert float(path_mean(alpha, 1)) == pytest.approx(alpha**2, rel=1e-12)
    assert float(path_std(alpha, 5, 1)) == 0


def test_two_steps_agree_with_the_law_worked_by_hand():
    # alpha = 1/2: path_2 = u_1/4 + u_2/2 and ||path_2||^2 = 1/16 + 1/4 + <u_1, u_2>/4, where
    # <u_1, u_2> has mean 0 and variance 1/d.
    assert float(path_mean(0.5, 2)) == pytest.approx(5 / 16, rel=1e-12)
    assert float(path_std(0.5, 9, 2)) == pytest.approx(1 / 4 / 3, rel=1e-12)


def test_no_step_has_no_length():
    assert float(path_mean(0.1, 0)) == 0
    assert float(path_std(0.1, 3, 0)) == 0


def test_a_path_without_memory_is_the_last_direction():
    for t in (1, 2, LIMIT):
        assert float(path_mean(1.0, t)) == 1
        assert float(path_std(1.0, 3, t)) == 0


def test_the_limit_is_that_of_many_steps():
    assert float(path_mean(0.1, LIMIT)) == pytest.approx(0.1 / 1.9, rel=1e-12)
    assert float(path_mean(0.1, 10**4)) == pytest.approx(0.1 / 1.9, rel=1e-12)
    assert float(path_std(0.1, 3)) == float(path_std(0.1, 3, LIMIT))
    assert float(path_std(0.1, 3, 10**4)) == pytest.approx(float(path_std(0.1, 3)), rel=1e-12)


def test_the_authors_deviation_is_larger_by_the_square_root_of_two_for_small_alpha():
    assert float(path_std(1e-6, 4)) / (1e-6 / 2) == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert float(path_std(0.01, 4)) / (0.01 / 2) == pytest.approx(0.707, abs=5e-4)


def test_the_laws_broadcast_and_compile():
    t = jnp.arange(1, 5)
    alphas = jnp.array([0.1, 0.2])[:, None]
    table = jax.jit(path_mean)(alphas, t)
    assert table.shape == (2, 4)
    assert float(table[1, 2]) == pytest.approx(float(path_mean(0.2, 3)), rel=1e-12)
    deviations = jax.jit(path_std)(alphas, 3, t)
    assert float(deviations[0, 3]) == pytest.approx(float(path_std(0.1, 3, 4)), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.5, math.nan])
def test_a_memory_rate_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"alpha must be in \(0, 1\], got {alpha}"):
        path_mean(alpha, 1)
    with pytest.raises(ValueError, match=rf"alpha must be in \(0, 1\], got {alpha}"):
        path_std(alpha, 1)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="t must be at least 0, got -1"):
        path_mean(0.1, -1)
    with pytest.raises(ValueError, match="t must be at least 0, got -1"):
        path_std(0.1, 1, -1)


def test_a_dimension_below_one_is_refused():
    with pytest.raises(ValueError, match="d must be at least 1, got 0"):
        path_std(0.1, 0)


def test_something_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="alpha must be a number"):
        path_mean("fast", 1)
