"""Every optimizer, step by step, against the plain NumPy version of `oracle.py`.

The problem is a noisy quadratic whose reported loss surges a few times, so that the guarded
optimizers raise alarms: after many steps, after one, and with a single step in between.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

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


@dataclasses.dataclass
class Case:
    """One optimizer, ours and the oracle's."""

    name: str
    ours: optax.GradientTransformation
    oracle: Callable[[dict[str, np.ndarray]], oracle.PageHinkley | oracle.Unguarded]
    is_complex: bool = False
    alarms: bool = False


GAINS = {"score": 0.02, "ratio": 0.1}


def laws(law, **arguments):
    """A law of the rate, ours and the oracle's."""
    gain = arguments.pop("gain", GAINS[law])
    ours = getattr(salera_optax, law)(gain, **arguments)
    return ours, getattr(oracle, law.capitalize())(gain, **arguments)


def alera_case(name, oracle_base=None, labels=None, *, law=(), is_complex=False, **arguments):
    ours, theirs = law or laws("ratio")
    arguments = {"alpha": 0.1, "law": ours} | arguments

    def reference(params):
        part = oracle.Alera(params, 0.1, theirs, labels, oracle_base and oracle_base())
        return oracle.Unguarded(oracle.Descent(part, 0.05, arguments.get("weight_decay", 0)))

    return Case(f"alera, {name}", salera_optax.alera(0.05, **arguments), reference, is_complex)


def salera_case(name, oracle_base=None, *, law=(), is_complex=False, **arguments):
    """The published detector; law, `rollback`, `reset_path` and the detector's numbers vary."""
    ours, theirs = law or laws("score")
    guard = {"rollback": True, "reset_path": True} | arguments
    tx = salera_optax.salera(0.05, **{"alpha": 0.1, "law": ours} | with_published(guard))

    def reference(params):
        part = oracle.Alera(params, 0.1, theirs, base=oracle_base and oracle_base())
        descent = oracle.Descent(part, 0.05, arguments.get("weight_decay", 0))
        return oracle.PageHinkley(descent, **guard_of(guard))

    return Case(f"salera, {name}", tx, reference, is_complex, alarms=True)


def spalera_case(name, *, law=(), is_complex=False, **arguments):
    ours, theirs = law or laws("score", gain=0.002)
    guard = {"rollback": True, "reset_path": True} | arguments
    tx = salera_optax.spalera(0.05, law=ours, **with_published(guard))

    def reference(params):
        part = oracle.ParameterwiseAlera(params, 0.1, theirs)
        return oracle.PageHinkley(oracle.Descent(part, 0.05), **guard_of(guard))

    return Case(f"spalera, {name}", tx, reference, is_complex, alarms=True)


def with_published(arguments):
    """The arguments of one of ours, the numbers of the detector put into the detector itself."""
    names = ("smoothing", "threshold")
    numbers = {name: arguments[name] for name in names if name in arguments}
    others = {name: value for name, value in arguments.items() if name not in names}
    return {"detector": salera_optax.published(**numbers)} | others


def guard_of(arguments):
    """The oracle's guard of an alias: rates and base survive, the path may be forgotten."""
    names = ("smoothing", "threshold", "factor", "rollback")
    return {
        **{name: arguments[name] for name in names if name in arguments},
        "start_over": arguments["reset_path"],
    }


def wrapper_case(name, inner, oracle_part, learning_rate, **arguments):
    """The bare wrapper around an optimizer that knows nothing of it."""
    ours = salera_optax.page_hinkley(inner, **with_published(arguments))

    def reference(_):
        return oracle.PageHinkley(oracle.Descent(oracle_part(), learning_rate), **arguments)

    return Case(f"page_hinkley, {name}", ours, reference, alarms=True)


def ag_adam_case(name, oracle_base, labels=None, **arguments):
    ours, theirs = laws("ratio")

    def reference(params):
        part = oracle.Alera(params, 0.1, theirs, labels, oracle_base())
        return oracle.Unguarded(oracle.Descent(part, 0.02))

    tx = salera_optax.ag_adam(0.02, alpha=0.1, law=ours, **arguments)
    return Case(f"ag_adam, {name}", tx, reference)


def salera_adamw_case(name, **arguments):
    """An alarm starts Adam over."""
    published = salera_optax.published()
    tx = salera_optax.salera_adamw(0.02, alpha=0.1, detector=published, **arguments)

    def reference(params):
        decay = arguments.get("weight_decay", 1e-4)
        nesterov = arguments.get("nesterov", True)
        adam = oracle.Adam(b2=arguments.get("b2", 0.95), nesterov=nesterov)
        law = oracle.Ratio(0.01, rest=-0.1)
        part = oracle.Alera(params, 0.1, law, base=oracle.Decayed(decay, adam))
        part.rate = oracle.first_rates(params, 0.02)
        return oracle.PageHinkley(oracle.Descent(part, 0.02))

    return Case(f"salera_adamw, {name}", tx, reference, alarms=True)


def schedule(step):
    """A learning rate that depends on the step."""
    return 0.1 / (1 + 0.1 * step)


def scheduled_case():
    ours, theirs = laws("ratio")

    def reference(params):
        part = oracle.Alera(params, 0.1, theirs)
        descent = oracle.Descent(part, schedule)
        return oracle.PageHinkley(descent)

    tx = salera_optax.salera(schedule, alpha=0.1, law=ours, detector=salera_optax.published())
    return Case("salera, learning rate on a schedule", tx, reference, alarms=True)


ONE = dict.fromkeys(("bias", "kernel", "scale"), "all")
TWO = {"bias": "outer", "kernel": "inner", "scale": "outer"}
CASES = [
    alera_case("a rate per leaf"),
    alera_case("the paper's law", law=laws("score")),
    alera_case("the authors' deviation", law=laws("score", std="authors")),
    alera_case("one rate", labels=ONE, groups="all"),
    alera_case("groups by labels", labels=TWO, groups=TWO),
    alera_case("groups by function", labels=TWO, groups=lambda _: TWO),
    alera_case("momentum", lambda: oracle.Momentum(0.9), momentum=0.9),
    alera_case(
        "Nesterov", lambda: oracle.Momentum(0.9, nesterov=True), momentum=0.9, nesterov=True
    ),
    alera_case("weight decay", weight_decay=0.1),
    alera_case("complex leaves", is_complex=True),
    ag_adam_case("defaults", oracle.Adam),
    ag_adam_case("own decay rates", lambda: oracle.Adam(0.8, 0.95), b1=0.8, b2=0.95),
    ag_adam_case("one rate", oracle.Adam, ONE, groups="all"),
    ag_adam_case("weight decay", lambda: oracle.Decayed(0.1, oracle.Adam()), weight_decay=0.1),
    salera_case("rollback, path forgotten"),
    salera_case("rollback, path kept", reset_path=False),
    salera_case(
        "momentum and weight decay",
        lambda: oracle.Momentum(0.9),
        momentum=0.9,
        weight_decay=0.1,
    ),
    salera_adamw_case("defaults"),
    salera_adamw_case("decay and memory", weight_decay=0.1, b2=0.999),
    salera_adamw_case("without Nesterov", nesterov=False),
    salera_case("ratio", law=laws("ratio")),
    salera_case("no rollback, path forgotten", rollback=False),
    salera_case("no rollback, path kept", rollback=False, reset_path=False),
    salera_case("the paper", law=laws("score", std="authors"), reset_path=False, smoothing=0.02),
    salera_case("raw loss, high threshold", smoothing=1.0, threshold=0.5, factor=0.3),
    salera_case("complex leaves", is_complex=True),
    scheduled_case(),
    spalera_case("rollback, path forgotten"),
    spalera_case("ratio", law=laws("ratio", gain=0.01)),
    spalera_case(
        "the paper",
        law=laws("score", gain=0.002, std="authors"),
        reset_path=False,
        smoothing=0.02,
    ),
    spalera_case("no rollback, path kept", rollback=False, reset_path=False),
    spalera_case("complex leaves", is_complex=True),
    wrapper_case("gradient descent", optax.sgd(0.05), oracle.Plain, 0.05),
    wrapper_case("momentum", optax.sgd(0.05, 0.9), lambda: oracle.Momentum(0.9), 0.05),
    wrapper_case(
        "momentum, raw loss, high threshold",
        optax.sgd(0.05, 0.9),
        lambda: oracle.Momentum(0.9),
        0.05,
        smoothing=1.0,
        threshold=0.5,
        factor=0.3,
    ),
    wrapper_case("Adam", optax.adam(0.05), oracle.Adam, 0.05),
    wrapper_case("Adam, no rollback", optax.adam(0.05), oracle.Adam, 0.05, rollback=False),
]


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
    part = oracle.Alera({"x": np.zeros(2)}, alpha=0.5, law=oracle.Score(0.1))
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
