"""What metrics reports, and that it finds the states wherever they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training import train_state

import salera_optax

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
KEYS = {
    *("alarm", "alarms", "cause", "held", "holds", "nonfinite", "scale", "statistic", "threshold")
}
RATES = {"learning_rate/kernel", "learning_rate/bias"}
NAN = float("nan")
STEADY = (1.0,) * 20
RISE = (*STEADY, 1e9, 1e9, 1e9)  # an alarm at the last one


def state_after(tx, *values, grads=PARAMS):
    """The state after these losses, with a gradient for every call, or one for all."""
    all_grads = grads if isinstance(grads, list) else [grads] * len(values)
    params, state = PARAMS, tx.init(PARAMS)
    for value, grad in zip(values, all_grads, strict=True):
        params, state = one_step(tx, grad, state, params, value)
    return state


@functools.partial(jax.jit, static_argnums=0)
def one_step(tx, grads, state, params, value):
    return salera_optax.step(tx, grads, state, params, value=value)


def after(tx, *values):
    return salera_optax.metrics(state_after(tx, *values))


def test_a_guarded_alera_reports_alarms_and_rates():
    tx = salera_optax.salera(0.1, law=salera_optax.score(2.12e-6))  # whose rates hardly move
    report = after(tx, *RISE)
    assert set(report) == KEYS | RATES
    assert report["alarm"]
    assert report["alarms"] == 1
    assert report["cause"] == 2
    assert report["held"] == 0
    assert report["holds"] == 3
    assert report["nonfinite"] == 0
    assert report["scale"] == 0.5
    before = after(tx, *STEADY)
    for rate in RATES:
        assert before[rate] == pytest.approx(0.1, rel=1e-3)
        assert report[rate] == pytest.approx(float(before[rate]) / 2, rel=1e-6)


def test_held_calls_are_reported_and_change_no_rate():
    report = after(salera_optax.salera(0.1), *STEADY, NAN, 1e9, NAN)
    numbers = {key: float(report[key]) for key in ("held", "holds", "nonfinite", "scale")}
    assert numbers == {"held": 3, "holds": 3, "nonfinite": 2, "scale": 1}
    assert not report["alarm"]
    assert report["alarms"] == report["cause"] == 0
    before = after(salera_optax.salera(0.1), *STEADY)
    assert all(report[rate] == before[rate] for rate in RATES)


def test_the_cause_of_the_last_alarm_is_reported_also_after_it():
    tx = salera_optax.salera(0.1)
    assert after(tx, 1.0, *[NAN] * 9, 1.0)["cause"] == 3
    assert after(tx, 1.0, *[NAN] * 9, *RISE, 1.0)["cause"] == 2


def test_a_detector_without_a_statistic_reports_none():
    def observe(state, loss, gradient_norm):
        del gradient_norm
        return salera_optax.Verdict(quiet=loss < 2, doubt=loss > 2, alarm=loss > 3), state

    detector = salera_optax.Detector(init=lambda dtype: (), observe=observe)
    report = after(salera_optax.page_hinkley(optax.sgd(0.1), detector), 1.0, 5.0)
    assert set(report) == KEYS - {"statistic", "threshold"}
    assert report["alarms"] == 1


def test_the_rates_of_every_optimizer_include_the_base_learning_rate():
    ag_adam = functools.partial(salera_optax.ag_adam, law=salera_optax.ratio())  # no rest
    for factory in (salera_optax.alera, salera_optax.spalera, ag_adam):
        report = after(factory(5e-4), 1.0)
        assert report["learning_rate/bias"] == pytest.approx(5e-4, rel=1e-4)


def test_a_schedule_is_reported_at_its_present_value():
    schedule, still = optax.linear_schedule(5e-4, 0.0, 10), salera_optax.ratio(0.0)
    report = after(salera_optax.alera(schedule, law=still), 1.0, 1.0, 1.0)
    assert report["learning_rate/bias"] == pytest.approx(4e-4, rel=1e-4)


def test_a_guard_alone_reports_no_rate():
    assert set(after(salera_optax.page_hinkley(optax.sgd(0.1)), 1.0)) == KEYS


def test_an_optimizer_of_others_reports_nothing():
    assert after(optax.adam(0.1), 1.0) == {}


def nnx_optimizer(tx):
    return nnx.Optimizer(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), tx, wrt=nnx.Param)


def linen_state(tx):
    return train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)


@pytest.mark.parametrize("report", [salera_optax.metrics, salera_optax.events])
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "opt_state",
        salera_optax.salera(0.1),
        optax.adam(0.1),
        optax.MultiSteps(optax.adam(0.1), 2),
        linen.Dense(3),
        nnx.Linear(2, 1, rngs=nnx.Rngs(0)),
        nnx.state(nnx_optimizer(salera_optax.salera(0.1))),
        nnx.state(nnx_optimizer(optax.adam(0.1))),
    ],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_optimizer_state_is_refused_by_its_type(report, wrong):
    match = rf"{report.__name__}: opt_state must be the state of .*got .*{type(wrong).__name__}.*"
    with pytest.raises(TypeError, match=match):
        report(wrong)


@pytest.mark.parametrize("hold", [nnx_optimizer, linen_state])
def test_what_holds_an_optimizer_state_reports_what_that_does(hold):
    assert set(salera_optax.metrics(hold(salera_optax.salera(0.1)))) >= KEYS
    assert salera_optax.metrics(hold(optax.adam(0.1))) == {}


@pytest.mark.parametrize(
    "tx",
    [
        optax.identity(),
        optax.sgd(optax.linear_schedule(5e-4, 0.0, 10)),
        optax.named_chain(("adam", optax.adam(0.1))),
        optax.MultiSteps(optax.lion(0.1), 2),
        optax.masked(optax.adam(0.1), {"kernel": True, "bias": False}),
        optax.inject_hyperparams(optax.adam)(0.1),
        optax.GradientTransformation(lambda params: jnp.zeros(()), optax.identity().update),
        optax.GradientTransformation(lambda params: {}, optax.identity().update),
    ],
    ids=lambda tx: type(tx.init(PARAMS)).__name__,
)
def test_any_state_of_others_is_none_of_ours(tx):
    for state in (tx.init(PARAMS), jax.device_get(tx.init(PARAMS))):
        assert salera_optax.metrics(state) == {}
        assert salera_optax.events(state) == []


@pytest.mark.parametrize(
    "nest",
    [
        lambda tx: optax.chain(optax.clip(1.0), tx),
        lambda tx: optax.masked(tx, True),
        lambda tx: optax.MultiSteps(tx, 1),
        lambda tx: optax.apply_if_finite(optax.chain(optax.chain(tx)), 3),
    ],
    ids=["chain", "masked", "MultiSteps", "apply_if_finite"],
)
def test_states_are_found_however_deeply_they_are_nested(nest):
    report = after(nest(salera_optax.salera(0.1)), 1.0)
    assert set(report) == KEYS | RATES


def test_injected_hyperparameters_are_seen():
    tx = optax.inject_hyperparams(salera_optax.salera)(3e-4)
    assert after(tx, 1.0)["learning_rate/bias"] == pytest.approx(3e-4, rel=1e-4)


def test_several_guards_keep_apart():
    tx = optax.partition(
        {"one": salera_optax.salera(4e-4), "two": salera_optax.salera(2e-4)},
        {"kernel": "one", "bias": "two"},
    )
    report = after(tx, 1.0)
    assert len(report) == 2 * len(KEYS) + 2
    rates = {key: float(rate) for key, rate in report.items() if "learning_rate/" in key}
    (kernel,) = [rate for key, rate in rates.items() if key.endswith("kernel")]
    (bias,) = [rate for key, rate in rates.items() if key.endswith("bias")]
    assert (kernel, bias) == pytest.approx((4e-4, 2e-4), rel=1e-4)


def test_metrics_work_inside_jit_and_are_scalars():
    tx = salera_optax.salera(0.1)
    report = jax.jit(salera_optax.metrics)(tx.init(PARAMS))
    assert {leaf.shape for leaf in report.values()} == {()}


@pytest.mark.parametrize("factory", [salera_optax.salera, salera_optax.spalera])
def test_leaves_whose_paths_read_alike_keep_their_own_rates(factory):
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.ones(3)}}
    report = salera_optax.metrics(factory(0.1).init(params))
    assert sum(key.startswith("learning_rate/") for key in report) == 2


# ----------------------------------------------------------------------------------- events


def test_events_tell_every_call_that_took_no_step_and_why():
    state = state_after(salera_optax.salera(0.1), NAN, *RISE, 1.0)
    rows = salera_optax.events(state)
    found = [(row["step"], row["cause"], row["alarm"]) for row in rows]
    assert found == [
        (0, "not finite", False),
        (21, "doubt", False),
        (22, "doubt", False),
        (23, "rise", True),
    ]
    assert np.isnan(rows[0]["loss"])
    assert [row["loss"] for row in rows[1:]] == [1e9] * 3
    norm = float(optax.tree.norm(PARAMS))
    assert [row["gradient_norm"] for row in rows] == pytest.approx([norm] * 4)


def test_events_are_plain_rows():
    (row,) = salera_optax.events(state_after(salera_optax.salera(0.1), 1.0, NAN))
    assert {key: type(value) for key, value in row.items()} == {
        "step": int,
        "cause": str,
        "alarm": bool,
        "loss": float,
        "gradient_norm": float,
        "leaf": str,
    }


@pytest.mark.parametrize("factor", [1e6, NAN])
@pytest.mark.parametrize("leaf", PARAMS)
def test_events_name_the_leaf_whose_gradient_stood_out(leaf, factor):
    # The other leaf has by far the larger gradient, as always.
    usual = {name: g * (1 if name == leaf else 1e4) for name, g in PARAMS.items()}
    broken = usual | {leaf: factor * usual[leaf]}
    grads = [usual, usual, broken, usual]
    for rollback, name in ((True, leaf), (False, str(sorted(PARAMS).index(leaf)))):
        tx = salera_optax.salera(1e-9, rollback=rollback)
        rows = salera_optax.events(state_after(tx, 1.0, 1.0, 1.0, 1.0, grads=grads))
        cause = "doubt" if factor == 1e6 else "not finite"
        assert [(row["step"], row["cause"], row["leaf"]) for row in rows] == [(2, cause, name)]


def test_the_last_eight_events_are_remembered():
    state = state_after(salera_optax.salera(0.1), 1.0, *[NAN] * 9, 1.0, NAN)
    rows = salera_optax.events(state)
    assert [row["step"] for row in rows] == [3, 4, 5, 6, 7, 8, 9, 11]
    assert [row["step"] for row in rows if row["alarm"]] == [9]  # the ninth in a row


def test_a_rate_that_is_not_finite_is_counted_and_named():
    def schedule(count):
        return jnp.where(count == 2, jnp.nan, 0.1)

    tx = salera_optax.page_hinkley(optax.sgd(schedule))
    params, state = PARAMS, tx.init(PARAMS)
    moved = []
    for _ in range(5):
        before = params
        params, state = salera_optax.step(tx, PARAMS, state, params, value=1.0)
        assert all(np.isfinite(leaf).all() for leaf in params.values())
        moved.append(not np.array_equal(params["bias"], before["bias"]))
    assert moved == [True, True, False, True, True]
    assert (int(state.nonfinite), int(state.holds), int(state.alarms)) == (1, 0, 0)
    (row,) = salera_optax.events(state)
    assert (row["step"], row["cause"], row["alarm"]) == (2, "update not finite", False)


@pytest.mark.parametrize(
    "nest",
    [
        lambda tx: optax.chain(optax.clip(1.0), tx),
        lambda tx: optax.masked(tx, {"kernel": True, "bias": False}),
        lambda tx: salera_optax.MultiSteps(tx, 1),
    ],
    ids=["chain", "masked", "MultiSteps"],
)
def test_events_are_found_however_deeply_they_are_nested(nest):
    (row,) = salera_optax.events(state_after(nest(salera_optax.salera(0.1)), 1.0, NAN, 1.0))
    assert (row["step"], row["cause"]) == (1, "not finite")


def test_a_run_without_events_or_without_a_guard_has_no_rows():
    assert salera_optax.events(state_after(salera_optax.salera(0.1), 1.0, 1.0)) == []
    assert salera_optax.events(state_after(optax.adam(0.1), 1.0, NAN)) == []
