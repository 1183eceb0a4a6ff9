"""What metrics reports, and that it finds the states wherever they are."""

import jax
import jax.numpy as jnp
import optax
import pytest

import salera_optax

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
KEYS = {"alarm", "alarms", "nonfinite", "scale", "statistic", "threshold"}
RATES = {"learning_rate/kernel", "learning_rate/bias"}


def after(tx, *values):
    params, state = PARAMS, tx.init(PARAMS)
    for value in values:
        params, state = salera_optax.step(tx, PARAMS, state, params, value=value)
    return salera_optax.metrics(state)


def test_a_guarded_alera_reports_alarms_and_rates():
    report = after(salera_optax.salera(0.1), 1.0, 1e9)
    assert set(report) == KEYS | RATES
    assert report["alarm"]
    assert report["alarms"] == 1
    assert report["nonfinite"] == 0
    assert report["learning_rate/kernel"] == pytest.approx(0.05, rel=1e-4)


def test_the_rates_of_every_optimizer_include_the_base_learning_rate():
    for factory in (salera_optax.alera, salera_optax.spalera, salera_optax.ag_adam):
        report = after(factory(0.25), 1.0)
        assert report["learning_rate/bias"] == pytest.approx(0.25, rel=1e-4)


def test_a_schedule_is_reported_at_its_present_value():
    schedule, still = optax.linear_schedule(1.0, 0.0, 10), salera_optax.ratio(0.0)
    report = after(salera_optax.alera(schedule, law=still), 1.0, 1.0, 1.0)
    assert report["learning_rate/bias"] == pytest.approx(0.8, rel=1e-4)


def test_a_guard_alone_reports_no_rate():
    assert set(after(salera_optax.page_hinkley(optax.sgd(0.1)), 1.0)) == KEYS


def test_an_optimizer_of_others_reports_nothing():
    assert after(optax.adam(0.1), 1.0) == {}


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
    tx = optax.inject_hyperparams(salera_optax.salera)(0.3)
    assert after(tx, 1.0)["learning_rate/bias"] == pytest.approx(0.3, rel=1e-4)


def test_several_guards_keep_apart():
    tx = optax.partition(
        {"one": salera_optax.salera(0.1), "two": salera_optax.salera(0.2)},
        {"kernel": "one", "bias": "two"},
    )
    report = after(tx, 1.0)
    assert len(report) == 2 * len(KEYS) + 2
    rates = {key: float(rate) for key, rate in report.items() if "learning_rate/" in key}
    (kernel,) = [rate for key, rate in rates.items() if key.endswith("kernel")]
    (bias,) = [rate for key, rate in rates.items() if key.endswith("bias")]
    assert (kernel, bias) == pytest.approx((0.1, 0.2), rel=1e-4)


def test_metrics_work_inside_jit_and_are_scalars():
    tx = salera_optax.salera(0.1)
    report = jax.jit(salera_optax.metrics)(tx.init(PARAMS))
    assert {leaf.shape for leaf in report.values()} == {()}


def test_nested_guards_keep_apart():
    tx = salera_optax.page_hinkley(salera_optax.page_hinkley(optax.sgd(0.1)))
    report = after(tx, 1.0)
    assert len(report) == 2 * len(KEYS)


@pytest.mark.parametrize("factory", [salera_optax.salera, salera_optax.spalera])
def test_leaves_whose_paths_read_alike_keep_their_own_rates(factory):
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.ones(3)}}
    report = salera_optax.metrics(factory(0.1).init(params))
    assert sum(key.startswith("learning_rate/") for key in report) == 2
