"""The recorded runs of the authors' code, replayed step by step through the public API in float64.

Every file of `tests/golden` is replayed, whatever it is called. What is deliberately different here
is left out, and says why: losses that are not finite or start at zero or below, the rule that stops
a run.
"""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

GOLDEN = Path(__file__).parent / "golden"
COUNTERS = {"tcount": "step", "evalCounter": "step", "EveCounter": "step", "PHCounter": "accepted"}


def recorded_runs():
    """Every run of every file, as a pytest parameter."""
    for path in sorted(GOLDEN.glob("*.json")):
        content = json.loads(path.read_text())
        for index, run in enumerate(content.get("runs", [content])):
            reason = why_left_out(content | run)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(run, id=f"{path.stem}-{index}", marks=marks)


def why_left_out(run):
    """Why a run is deliberately different here, or None."""
    losses = np.array(run["losses"], float)
    if "aschoenauer-sebag/salera" not in run["source"]:
        return "not the authors' code: restarts the mean but not the path on an alarm"
    if not np.isfinite(losses).all():
        return "a non-finite loss is held here; it silences the authors' test for ever"
    if run["algorithm"] in ("salera", "spalera") and losses[0] <= 0:
        return "the threshold is relative to |first loss| here; theirs is then zero or negative"
    return None


RUNS = list(recorded_runs())


def hyperparameters(run):
    """The arguments of the optimizer, by the names that they have here."""
    given = {key.lower().replace("_", ""): value for key, value in run["hyperparameters"].items()}
    ours = {
        "learning_rate": given["learningrate"],
        "alpha": given["alpha"],
        "gain": given["c"],
        # Ag-Adam's eps is Adam's.
        "eps": given.get("adamepsilon", given.get("epsilonglobal", 1e-6)),
        "smoothing": given.get("mbratio"),
        "threshold": given.get("glambda"),
        "b1": given.get("beta1"),
        "b2": given.get("beta2"),
    }
    decay = next((v for k, v in given.items() if k in ("weightdecay", "wd")), 0.0)
    # The authors' ALERA adds the decay to the gradient twice.
    decay = 2 * decay if run["algorithm"] == "alera" else decay
    return {key: value for key, value in ours.items() if value is not None}, decay


def optimizer(algorithm, variant, arguments, decay, groups):
    """The algorithm as published, behind an L2 penalty on the gradient."""
    factory = getattr(salera_optax, {"agadam": "ag_adam"}.get(algorithm, algorithm))
    law = salera_optax.score(arguments["gain"], std="authors")
    arguments = {key: value for key, value in arguments.items() if key != "gain"} | {"law": law}
    if algorithm != "spalera":
        arguments["groups"] = groups
    if algorithm in ("alera", "salera"):
        arguments.update(momentum=None, clip=None)
    if algorithm == "agadam":
        arguments.update(nesterov=False, weight_decay=0.0)
    if algorithm in ("salera", "spalera"):
        numbers = {name: arguments.pop(name) for name in ("smoothing", "threshold")}
        arguments["detector"] = salera_optax.published(**numbers)
        arguments.update(reset_path=False, rollback=variant == "backtrack")
    return optax.chain(optax.add_decayed_weights(decay), factory(**arguments))


def cuts(layers, halves):
    """Where each leaf starts and ends: one leaf a layer, or two where it has two coordinates."""
    ends = np.cumsum(layers).tolist()
    starts = [0, *ends[:-1]]
    if not halves:
        return [[(start, end)] for start, end in zip(starts, ends, strict=True)]
    middles = [(start + end) // 2 for start, end in zip(starts, ends, strict=True)]
    return [
        [(start, middle), (middle, end)] if start < middle else [(start, end)]
        for start, middle, end in zip(starts, middles, ends, strict=True)
    ]


def as_tree(x, leaves):
    """A vector as parameters: a dictionary of layers, each a leaf, or a list of two."""
    layers = [[x[a:b] for a, b in layer] for layer in leaves]
    return {f"layer{i}": v if len(v) > 1 else v[0] for i, v in enumerate(layers)}


def as_vector(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def only(state, kind):
    """The one state of a kind, however deeply nested."""
    (found,) = (
        part
        for part in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kind))
        if isinstance(part, kind)
    )
    return found


def observed(algorithm, params, state, layers, eta):
    """What the recordings hold, read from our parameters and state."""
    values = {"x": as_vector(params)}
    if algorithm == "spalera":
        rates = only(state, salera_optax.ScaleByParameterwiseAleraState)
        values["learning_rates"] = jnp.exp(as_vector(rates.log_rate))
    else:
        rates = only(state, salera_optax.ScaleByAleraState)
        per_layer = jnp.stack([rates.log_rate[f"layer{i}"] for i in range(len(layers))])
        values["learning_rates"] = eta * jnp.repeat(
            jnp.exp(per_layer), jnp.array(layers), total_repeat_length=sum(layers)
        )
    values.update(relaxed_sums=as_vector(rates.path), step=rates.step)
    if algorithm == "agadam":
        adam = only(state, optax.ScaleByAdamState)
        values.update(m=as_vector(adam.mu), v=as_vector(adam.nu))
    if algorithm in ("salera", "spalera"):
        guard = only(state, salera_optax.PageHinkleyState)
        values["learning_rates"] *= guard.scale
        values.update(
            relaxed_loss=guard.detector.smoothed,
            mu0=guard.detector.average,
            statistic=guard.detector.statistic,
            accepted=guard.detector.accepted,
            alarm=guard.alarm,
            alarms=guard.alarms,
            threshold=salera_optax.metrics(state)["threshold"],
        )
    return values


@functools.partial(jax.jit, static_argnames=("algorithm", "variant", "layers", "halves"))
def replay(arguments, decay, x0, inputs, curvature, *, algorithm, variant, layers, halves):
    """The whole run in one compiled scan; hyperparameters are traced, so that runs share it."""
    leaves = cuts(layers, halves)
    labels = {f"layer{i}": f"layer{i}" for i in range(len(layers))}
    tx = optimizer(algorithm, variant, arguments, decay, labels if halves else None)

    def call(carry, given):
        params, state = carry
        loss, gradient = given
        if curvature is not None:
            x = as_vector(params)
            loss, gradient = jnp.sum(curvature * x**2) / 2, curvature * x
        params, state = salera_optax.step(tx, as_tree(gradient, leaves), state, params, value=loss)
        values = observed(algorithm, params, state, layers, arguments["learning_rate"])
        return (params, state), values | {"loss": loss}

    params = as_tree(x0, leaves)
    return jax.lax.scan(call, (params, tx.init(params)), inputs)[1]


def compared_steps(run):
    """The calls before the authors' rule for stopping, which has no counterpart here."""
    steps = run["steps"]
    return next((i for i, step in enumerate(steps) if step.get("stopped")), len(steps))


def recorded(run, key, count):
    """One recorded quantity over the compared calls, a row a call; None where it is not there."""
    steps = run["steps"][:count]
    if not steps or key not in steps[0]:
        return None
    values = np.array([step[key] for step in steps], float)
    if key == "learning_rates" and values.shape[1] == len(run["layers"]):
        values = np.repeat(values, run["layers"], axis=1)
    return values


def assert_rows_agree(ours, theirs, tolerance, scale, name):
    """Row by row, the largest difference relative to the largest entry, or to a given scale."""
    ours, theirs = (np.asarray(v, float).reshape(len(theirs), -1) for v in (ours, theirs))
    scale = np.abs(theirs).max(axis=1) if scale is None else scale
    error = np.abs(ours - theirs).max(axis=1) / np.where(scale > 0, scale, 1)
    worst = int(np.argmax(error))
    assert error[worst] <= tolerance, f"{name}: {error[worst]:.2e} at call {worst + 1}"


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "halves",
    [
        pytest.param(False, id="one leaf a layer"),
        pytest.param(True, id="two leaves a layer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("run", RUNS)
def test_every_recorded_call_is_reproduced(run, halves):
    arguments, decay = hyperparameters(run)
    size = len(run["x0"])
    gradients = np.array(run["gradients"] or np.zeros((len(run["losses"]), size)), float)
    ours = jax.device_get(
        replay(
            {key: jnp.asarray(value, float) for key, value in arguments.items()},
            jnp.asarray(decay, float),
            jnp.array(run["x0"], float),
            (jnp.array(run["losses"], float), jnp.array(gradients)),
            None if run["gradients"] else jnp.array(run["a"], float),
            algorithm=run["algorithm"],
            variant=run["variant"],
            layers=tuple(run["layers"]),
            halves=halves,
        )
    )
    count = compared_steps(run)
    assert count > 0
    ours = {key: value[:count] for key, value in ours.items()}
    theirs = functools.partial(recorded, run, count=count)

    # Alarms and counters are equal, not merely close.
    for key, name in COUNTERS.items():
        if theirs(key) is not None:
            np.testing.assert_array_equal(ours[name], theirs(key), err_msg=key)
    guarded = "alarm" in ours
    if guarded:
        np.testing.assert_array_equal(ours["alarm"], theirs("alarm"))
        np.testing.assert_array_equal(ours["alarms"], np.cumsum(theirs("alarm")))

    # Optax adds Adam's epsilon after the bias correction, the authors before it.
    tolerances = {"x": 1e-5 if run["algorithm"] == "agadam" else 1e-9}
    checked = ["x", "learning_rates", "relaxed_sums", "m", "v"]
    assert_rows_agree(ours["loss"], run["losses"][:count], 1e-9, None, "loss")
    for key in checked:
        if theirs(key) is not None:
            assert_rows_agree(ours[key], theirs(key), tolerances.get(key, 1e-9), None, key)
    if guarded:
        threshold = arguments["threshold"] * run["losses"][0]
        level = [theirs(key) for key in ("relaxed_loss", "Un", "mn")]
        scale = np.abs([*level, np.full(count, threshold)]).max(axis=0)
        for key in ("relaxed_loss", "mu0"):
            assert_rows_agree(ours[key], theirs(key), 1e-9, scale, key)
        assert_rows_agree(ours["statistic"], theirs("Un") - theirs("mn"), 1e-9, scale, "statistic")
        assert_rows_agree(ours["threshold"], np.full(count, threshold), 1e-9, None, "threshold")


@pytest.mark.parametrize("run", RUNS)
def test_the_recorded_mean_of_the_walk_is_the_law(run):
    alpha = jnp.float64(run["hyperparameters"]["alpha"])
    for step in run["steps"]:
        if "ref_mean" in step:
            law = float(salera_optax.path_mean(alpha, step["mean_index"]))
            assert math.isclose(law, step["ref_mean"], rel_tol=1e-9)


def test_the_recordings_cover_every_algorithm_and_variant():
    seen = {(run.values[0]["algorithm"], run.values[0].get("variant")) for run in RUNS}
    guarded = {(a, v) for a in ("salera", "spalera") for v in ("published", "backtrack")}
    assert seen >= guarded
    assert {algorithm for algorithm, _ in seen} >= {"alera", "agadam"}
