"""Every optimizer, step by step, against the plain NumPy version of `oracle.py`.

The problem is a noisy quadratic whose reported loss surges a few times, so that the guarded
optimizers raise alarms: after many steps, after one, and with a single step in between.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_laws
import pytest
from oracle_cases import CASES

import salera_optax

CALLS = 120
SURGES = {40: 5.0, 41: 5.0, 60: 3.0, 62: 8.0, 90: 4.0, 92: 20.0, 94: 60.0}  # in first losses
TOLERANCE = {"float64": 1e-11, "float32": 5e-5}


def problem(*, is_complex=False):
    """Parameters, curvature, and the noise of the gradient at every call."""
    rng = np.random.default_rng(0)
    shapes = {"bias": (2,), "kernel": (3, 2), "scale": ()}

    def normal(shape):
        if not is_complex:
            return rng.standard_normal(shape)
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    params = {k: 2 * normal(shape) for k, shape in shapes.items()}
    curvature = {k: rng.uniform(0.2, 1.0, shape) for k, shape in shapes.items()}
    noise = {k: 0.5 * normal((CALLS, *shape)) for k, shape in shapes.items()}
    return params, curvature, noise


def quadratic(curvature, params, array):
    """The loss, and the gradient, in NumPy or in JAX."""
    loss = sum(array.sum(curvature[k] * array.abs(params[k]) ** 2) / 2 for k in params)
    return loss, {k: curvature[k] * params[k] for k in params}


def surge(call, first_loss):
    """What is added to the loss at a call."""
    return SURGES.get(call, 0.0) * first_loss


def run_oracle(case):
    """The oracle's trajectory: for every call, a flat dictionary of numbers."""
    params, curvature, noise = problem(is_complex=case.is_complex)
    optimizer = case.oracle(params)
    first_loss, _ = quadratic(curvature, params, np)
    trajectory = []
    for call in range(CALLS):
        loss, grads = quadratic(curvature, params, np)
        grads = {k: g + noise[k][call] for k, g in grads.items()}
        params = optimizer.step(params, grads, loss + surge(call, first_loss))
        trajectory.append(oracle_values(params, optimizer))
    return {key: np.stack([values[key] for values in trajectory]) for key in trajectory[0]}


def oracle_values(params, optimizer):
    values = {f"params/{k}": p for k, p in params.items()}
    part = optimizer.inner.part
    if hasattr(part, "rate"):
        values |= {f"rate/{k}": np.array(rate) for k, rate in part.rate.items()}
        values |= {f"path/{k}": path for k, path in part.path.items()}
    if isinstance(optimizer, oracle.PageHinkley):
        values |= {
            "alarm": np.array(optimizer.alarm, int),
            "alarms": np.array(optimizer.alarms),
            "scale": np.array(optimizer.scale),
            "smoothed": np.array(optimizer.smoothed),
            "average": np.array(optimizer.average),
            "statistic": np.array(optimizer.level - optimizer.lowest),
        }
    return values


def run_ours(case, dtype):
    """Our trajectory, in the given precision."""
    params, curvature, noise = problem(is_complex=case.is_complex)
    first_loss, _ = quadratic(curvature, params, np)
    surges = np.array([surge(call, first_loss) for call in range(CALLS)])
    wide = {"float32": np.complex64, "float64": np.complex128}[dtype]

    def cast(tree):
        return {k: jnp.asarray(x, wide if np.iscomplexobj(x) else dtype) for k, x in tree.items()}

    curvature = cast(curvature)

    def call(carry, given):
        params, state = carry
        noise, surge = given
        loss, grads = quadratic(curvature, params, jnp)
        grads = {k: g + noise[k] for k, g in grads.items()}
        params, state = salera_optax.step(case.ours, grads, state, params, value=loss + surge)
        return (params, state), our_values(params, state)

    params = cast(params)
    start = params, case.ours.init(params)
    inputs = cast(noise), jnp.asarray(surges, dtype)
    return jax.device_get(jax.jit(lambda: jax.lax.scan(call, start, inputs)[1])())


def our_values(params, state):
    values = {f"params/{k}": p for k, p in params.items()}
    kinds = (salera_optax.ScaleByAleraState, salera_optax.ScaleByParameterwiseAleraState)
    guards = (salera_optax.PageHinkleyState,)
    if isinstance(state, guards):
        values |= {
            "alarm": state.alarm.astype(int),
            "alarms": state.alarms,
            "scale": state.scale,
            "smoothed": state.detector.smoothed,
            "average": state.detector.average,
            "statistic": state.detector.statistic,
        }
        state = state.inner_state
    for part in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(part, kinds):
            values |= {f"rate/{k}": jnp.exp(log_rate) for k, log_rate in part.log_rate.items()}
            values |= {f"path/{k}": path for k, path in part.path.items()}
    return values


@pytest.fixture(params=["float64", pytest.param("float32", marks=pytest.mark.slow)])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_step_agrees_with_the_plain_version(case, dtype):
    ours, reference = run_ours(case, dtype), run_oracle(case)
    assert ours.keys() == reference.keys()
    if case.alarms:
        assert reference["alarms"][-1] >= 4
        np.testing.assert_array_equal(ours["alarm"], reference["alarm"])
        assert {ours[key].dtype for key in ("scale", "smoothed", "statistic")} == {np.dtype(dtype)}
    for key, expected in reference.items():
        assert ours[key].shape == expected.shape
        scale = np.abs(reference["smoothed" if key == "statistic" else key]).max()
        error = np.abs(ours[key].astype(expected.dtype) - expected).max() / scale
        assert error <= TOLERANCE[dtype], f"{key}: {error:.1e}"
    rates = [value for key, value in reference.items() if key.startswith("rate/")]
    # The comparison would be empty if the rates had hardly moved.
    assert all(np.abs(np.log(rate)).max() > 0.01 for rate in rates)


def test_the_oracle_agrees_with_two_steps_worked_by_hand():
    # alpha = 1/2, gradients (3, 4) and (0, 2): paths (0.3, 0.4) and (0.15, 0.7), squared norms 0.25
    # and 0.5125, means 1/4 and 5/16, std sqrt(4 (1/4) (1/4) / ((9/4) (5/4)) / 2) = sqrt(2/45).
    part = oracle.Alera({"x": np.zeros(2)}, alpha=0.5, law=oracle_laws.Score(0.1))
    first = part.direction({"x": np.array([3.0, 4.0])}, None)
    np.testing.assert_allclose(first["x"], [3.0, 4.0], rtol=1e-12)
    second = part.direction({"x": np.array([0.0, 2.0])}, None)
    np.testing.assert_allclose(part.path["x"], [0.15, 0.7], rtol=1e-12)
    rate = np.exp(0.1 * (0.5125 - 0.3125) / np.sqrt(2 / 45))
    np.testing.assert_allclose(second["x"], [0.0, 2 * rate], rtol=1e-12)


def test_the_plain_guard_agrees_with_four_losses_worked_by_hand():
    # Losses 1, 1, 1.5, smoothed 1, 1, 7/6, averaged 1, 1, 19/18: L = 1/9 > 0.1, an alarm at the
    # third. The second step is taken back, and the fourth is half as long.
    guard = oracle.PageHinkley(oracle.Descent(oracle.Plain(), 1.0))
    params, grads = {"x": np.zeros(1)}, {"x": np.ones(1)}
    for loss, x in [(1.0, -1.0), (1.0, -2.0), (1.5, -1.0), (1.0, -1.5)]:
        params = guard.step(params, grads, loss)
        assert params["x"][0] == x
    assert guard.alarms == 1
