"""What the guard returns: always finite, and back on the snapshot bit for bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from guarded_runs import GRADS, HIGH, NAN, PARAMS, assert_same_bits, run

import salera_optax


def ones_like(params):
    return jax.tree.map(jnp.ones_like, params)


@pytest.mark.parametrize("size", [0.5, 3.0, 1e3, 1e6, 1e15, 1e30])
def test_apply_updates_is_back_on_the_snapshot_bit_for_bit_one_step_later(size):
    key = jax.random.key(0)
    before = {"w": jax.random.normal(key, (1000,)), "v": 1e-3 * jax.random.normal(key, (1000,))}
    tx = salera_optax.page_hinkley(optax.scale(size))
    state = tx.init(before)
    jump = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), before)
    updates, state = tx.update(jump, state, before, value=1.0)
    after = optax.apply_updates(before, updates)

    for value in HIGH:
        updates, state = tx.update(ones_like(after), state, after, value=value)
    restored = optax.apply_updates(after, updates)
    assert state.action.go_back
    exact_at_once = all(bool((restored[k] == before[k]).all()) for k in before)

    updates, state = tx.update(ones_like(after), state, restored, value=0.5)
    final = optax.apply_updates(restored, updates)
    if exact_at_once:
        assert state.action.renew, "nothing to mend: a gradient step"
    else:
        assert_same_bits(final, before)
        assert state.action.hold, "no gradient step before the rollback is exact"
    assert not state.alarm
    assert state.alarms == 1


def test_a_rollback_that_can_never_be_exact_holds_the_run_up_for_one_call_only():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    for value in HIGH:
        _, state = tx.update(GRADS, state, params, value=value)
    assert state.action.go_back
    moved = jax.tree.map(lambda p: p + 1, PARAMS)  # as a projection of the parameters would
    _, state = tx.update(GRADS, state, moved, value=1.0)
    assert state.action.hold
    updates, state = tx.update(GRADS, state, moved, value=1.0)
    assert not state.action.hold
    np.testing.assert_allclose(updates["a"], -0.05 * GRADS["a"], rtol=0.02)


def test_no_update_is_ever_non_finite():
    tx = salera_optax.page_hinkley(optax.scale(-1e30))
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(lambda g: 1e9 * g, GRADS), state, PARAMS, value=1.0)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), PARAMS)
    updates, state = tx.update(GRADS, state, lost, value=NAN)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))


def test_an_update_that_is_not_finite_is_counted_and_named():
    tx = salera_optax.page_hinkley(optax.sgd(lambda step: jnp.where(step < 2, 0.1, NAN)))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0] * 4)
    assert (state.nonfinite, state.alarms) == (2, 0)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert [event["cause"] for event in salera_optax.events(state)] == ["update not finite"] * 2


@pytest.mark.parametrize("apply", ["step", "update"])
@pytest.mark.parametrize("rollback", [True, False])
@pytest.mark.parametrize("wrong", [NAN, np.inf, 3e38])
def test_an_update_of_which_one_number_is_not_finite_is_counted_and_stays_put(
    apply, rollback, wrong
):
    def update(updates, state, params=None):
        del params
        spoilt = updates["a"].at[1].set(wrong)
        return updates | {"a": jnp.where(state == 1, spoilt, updates["a"])}, state + 1

    inner = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    tx = salera_optax.page_hinkley(inner, rollback=rollback)
    start = PARAMS | {"a": jnp.array([1.0, 3e38])}
    params, state = start, tx.init(start)
    for _ in range(3):
        if apply == "step":
            params, state = salera_optax.step(tx, GRADS, state, params, value=1.0)
        else:
            updates, state = tx.update(GRADS, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
    expected = jax.tree.map(lambda p, g: p + 3 * g, start, GRADS)
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert (state.nonfinite, state.holds) == (1, 0)
    (event,) = salera_optax.events(state)
    assert (event["step"], event["cause"]) == (1, "update not finite")


def test_step_takes_a_number_that_would_not_be_finite_from_the_last_quiet_parameters():
    def observe(state, loss, gradient_norm):
        del gradient_norm
        no = jnp.zeros((), bool)
        return salera_optax.Verdict(quiet=loss < 2, doubt=no, alarm=no), state

    detector = salera_optax.Detector(init=lambda dtype: (), observe=observe)
    inner = optax.sgd(lambda step: jnp.where(step < 3, -1.0, NAN))
    tx = salera_optax.page_hinkley(inner, detector)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, 1.0, 3.0, 3.0])
    assert state.nonfinite == 1
    assert_same_bits(params, jax.tree.map(lambda p, g: p + g, PARAMS, GRADS))


def test_step_takes_the_update_that_was_put_in_place_of_the_guards():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))

    def twice(*args, **extra):
        updates, state = tx.update(*args, **extra)
        return jax.tree.map(lambda u: 2 * u, updates), state

    state = tx.init(PARAMS)
    params, _ = salera_optax.step(tx._replace(update=twice), GRADS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.2 * GRADS["a"])


def test_an_infinite_parameter_is_no_rollback_to_be_completed():
    params = {"mask": jnp.array([0.0, -jnp.inf])}
    grads = {"mask": jnp.array([1.0, 0.0])}
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, params, tx.init(params), [1.0, *HIGH], grads)
    assert state.action.go_back
    _, state = run(tx, params, state, [1.0], grads)
    assert not state.action.hold


def test_step_and_update_may_take_turns():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    for value in HIGH:
        updates, state = tx.update(GRADS, state, params, value=value)
    assert state.action.go_back
    rounded = jax.tree.map(lambda x: x + 1e-3, optax.apply_updates(params, updates))
    # An alarm of `update` leaves it to the next call to restore the last bit: `step` starts there.
    expected, _ = run(tx, PARAMS, state, [1.0])
    params, state = run(tx, rounded, state, [1.0])
    assert_same_bits(params, expected)
    params, state = run(tx, params, state, HIGH)
    assert_same_bits(params, PARAMS)
    updates, state = tx.update(GRADS, state, params, value=1.0)
    assert not state.alarm
    np.testing.assert_allclose(updates["a"], -0.025 * GRADS["a"], rtol=0.01)
