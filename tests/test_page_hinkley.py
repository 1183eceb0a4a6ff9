"""The wrapper: what doubt and an alarm do to parameters, steps and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from guarded_runs import GRADS, HIGH, NAN, PARAMS, assert_same_bits, run

import salera_optax


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf"), 1e9])
def test_a_minibatch_in_doubt_changes_nothing(value):
    tx = salera_optax.page_hinkley(optax.adam(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, 1.0])
    held, after = run(tx, params, state, [value])
    assert after.action.hold
    assert not after.alarm
    assert_same_bits(held, params)
    assert_same_bits(after.inner_state, state.inner_state)
    assert after.scale == 1


def test_a_normal_loss_ends_the_doubt():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, NAN, 1.0, 1e9, 1e9, 1.0])
    assert (state.holds, state.alarms, state.scale) == (3, 0, 1)
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.3 * GRADS["a"], rtol=1e-5)


def test_three_losses_far_outside_return_the_parameters_of_the_last_quiet_loss():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    before, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, 1.0])
    params, state = run(tx, before, state, [1.0])
    params, state = run(tx, params, state, HIGH)
    assert state.alarm
    assert state.action.go_back
    assert_same_bits(params, before)


def test_a_slow_rise_is_taken_back_to_before_it_began():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    before, state = run(tx, PARAMS, tx.init(PARAMS), [1.0] * 50)
    params, state = run(tx, before, state, [1.0])
    quiet = 0
    for step in range(1, 60):
        before, quiet = (params, step) if state.action.renew else (before, quiet)
        params, state = run(tx, params, state, [1.0 + 0.015 * step])
        if state.alarm:
            break
    assert state.action.go_back
    assert state.holds == 1, "it took steps while the loss rose"
    assert step - quiet > 10
    assert_same_bits(params, state.snapshot)


def test_the_step_after_an_alarm_is_half_as_long():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, *HIGH, 1.0])
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.05 * GRADS["a"], rtol=1e-6)
    assert not state.alarm
    assert (state.alarms, state.scale) == (1, 0.5)


def test_a_loss_that_is_high_at_good_parameters_too_shrinks_nothing_in_the_end():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, *[1e9] * 43])
    assert (state.alarms, state.scale) == (2, 1)
    assert_same_bits(params, PARAMS)
    _, state = run(tx, params, state, [1e9])
    assert not state.action.hold, "the new level is normal"


def test_parameters_come_back_from_nan():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), params)
    params, state = run(tx, lost, state, [NAN] * 8, lost)
    assert not state.alarm
    params, state = run(tx, params, state, [NAN], lost)
    assert state.alarm, "nine in a row"
    assert_same_bits(params, PARAMS)


def test_without_rollback_an_alarm_holds_and_shrinks():
    tx = salera_optax.page_hinkley(optax.sgd(0.1), rollback=False)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    after, state = run(tx, params, state, HIGH)
    assert state.alarm
    assert (state.snapshot, state.scale) == (None, 0.5)
    assert_same_bits(after, params)


def test_value_and_further_arguments_reach_the_inner_optimizer():
    seen = {}

    def update(updates, state, params=None, **extra):
        del params
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = salera_optax.page_hinkley(inner)
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0, grad=GRADS)
    assert set(seen) == {"value", "grad"}


def test_the_published_detector_ignores_a_spike_of_the_gradient():
    spike = jax.tree.map(lambda g: 1e4 * g, GRADS)
    for detector, hold in ((salera_optax.robust(), True), (salera_optax.published(), False)):
        tx = salera_optax.page_hinkley(optax.sgd(0.1), detector)
        params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
        _, state = run(tx, params, state, [1.0], spike)
        assert bool(state.action.hold) == hold


def test_the_published_detector_goes_back_to_before_the_last_step_at_once():
    tx = salera_optax.page_hinkley(optax.sgd(0.1), salera_optax.published(smoothing=1.0))
    before, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    params, state = run(tx, before, state, [1.0, 9.0])
    assert state.action.go_back
    assert state.scale == 0.5
    assert_same_bits(params, before)


def test_the_state_of_a_guard_without_a_snapshot_is_refused_by_one_with_it():
    state = salera_optax.page_hinkley(optax.sgd(0.1, 0.9), rollback=False).init(PARAMS)
    tx = salera_optax.page_hinkley(optax.sgd(0.1, 0.9))
    with pytest.raises(ValueError, match="page_hinkley"):
        tx.update(GRADS, state, PARAMS, value=1.0)


def test_guards_are_not_nested():
    with pytest.raises(TypeError, match="inner must not be a guard"):
        salera_optax.page_hinkley(salera_optax.page_hinkley(optax.sgd(0.1)))
    tx = salera_optax.page_hinkley(optax.chain(salera_optax.salera(0.1), optax.scale(2.0)))
    with pytest.raises(ValueError, match="no further guard"):
        tx.init(PARAMS)


def test_masked_leaves_are_left_to_the_rest_of_the_chain():
    mask = {"a": True, "b": {"c": False}}
    tx = optax.masked(salera_optax.page_hinkley(optax.sgd(0.1)), mask)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    restored, state = run(tx, params, state, HIGH)
    assert_same_bits(restored["a"], PARAMS["a"])
    np.testing.assert_allclose(
        restored["b"]["c"], params["b"]["c"] + 3 * GRADS["b"]["c"], rtol=1e-6
    )
