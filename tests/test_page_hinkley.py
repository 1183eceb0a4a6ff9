"""The wrapper: what an alarm does to parameters, inner state, steps and counts."""

import os
import re

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import salera_optax

NAN = float("nan")
# conftest.py has the suite compiled by another emitter, which copies where the usual one does not.
FASTER = "fusion_emitters" in os.environ["XLA_FLAGS"]
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if FASTER else {}


def tree(*values):
    return {"a": jnp.array(values[:2]), "b": {"c": jnp.array(values[2:])}}


PARAMS = tree(1.0, -2.0, 0.1, 3.0)
GRADS = tree(0.3, 0.2, -0.1, 0.7)


HIGH = [1e9] * 3  # after a quiet loss, the third of them is an alarm


def run(tx, params, state, values, grads=GRADS):
    """Steps at these losses, one after the other."""
    for value in values:
        params, state = salera_optax.step(tx, grads, state, params, value=value)
    return params, state


def ones_like(params):
    return jax.tree.map(jnp.ones_like, params)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


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


def test_parameters_come_back_from_nan():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), params)
    params, state = run(tx, lost, state, [NAN] * 8, lost)
    assert not state.alarm
    params, state = run(tx, params, state, [NAN], lost)
    assert state.alarm, "nine in a row"
    assert_same_bits(params, PARAMS)


def test_no_update_is_ever_non_finite():
    tx = salera_optax.page_hinkley(optax.scale(-1e30))
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(lambda g: 1e9 * g, GRADS), state, PARAMS, value=1.0)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), PARAMS)
    updates, state = tx.update(GRADS, state, lost, value=NAN)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "inner",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adam(0.1),
        optax.lion(0.1),
        optax.masked(optax.adam(0.1), {"a": True, "b": {"c": False}}),
        optax.chain(optax.clip(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(0.1)),
        optax.contrib.schedule_free_sgd(0.1),
    ],
    ids=["momentum", "adam", "lion", "masked", "chain", "schedule-free"],
)
def test_what_the_optimizer_remembers_of_the_gradients_starts_over_after_an_alarm(inner):
    tx = salera_optax.page_hinkley(inner)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    before = state
    memory = optax.tree.map_params(
        inner, lambda x: x, state.inner_state, transform_non_params=lambda _: None
    )
    assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(memory))
    params, state = run(tx, params, state, HIGH)
    assert state.action.go_back
    assert_same_bits(state.inner_state, before.inner_state)
    _, state = run(tx, params, state, [1.0])
    assert state.action.forget, "a normal loss: the step was to blame"
    _, fresh = inner.update(GRADS, inner.init(PARAMS), PARAMS)
    memory, fresh = (
        optax.tree.map_params(inner, lambda x: x, part, transform_non_params=lambda _: None)
        for part in (state.inner_state, fresh)
    )
    chex.assert_trees_all_close(memory, fresh, rtol=1e-6)  # newer compilers round by context


def test_nothing_is_forgotten_where_the_data_were_to_blame():
    tx = salera_optax.page_hinkley(optax.adam(0.1))
    params, before = run(tx, PARAMS, tx.init(PARAMS), [1.0] * 5)
    _, state = run(tx, params, before, HIGH + HIGH[:1] * 41)
    assert state.alarms == 2, "and the loss is as high there: a new level"
    assert not state.action.hold
    assert state.inner_state[0].count == before.inner_state[0].count + 1


def test_the_count_of_adam_starts_over_and_that_of_a_schedule_does_not():
    schedule = optax.linear_schedule(0.1, 0.01, 100)
    tx = salera_optax.page_hinkley(optax.adam(schedule))
    _, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, 1.0, *HIGH, 1.0])
    adam, schedule_state = state.inner_state
    assert (adam.count, schedule_state.count) == (1, 3)


def test_the_rates_of_alera_stay_at_an_alarm():
    tx = salera_optax.page_hinkley(salera_optax.alera(0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0] * 5)
    before = state.inner_state[1].log_rate
    _, state = run(tx, params, state, [*HIGH, 1.0])
    assert state.inner_state[1].step == 1, "the first step of a path tells nothing"
    chex.assert_trees_all_close(state.inner_state[1].log_rate, before, rtol=1e-5)


def test_on_alarm_may_do_something_else():
    def tenfold(inner_state):
        return jax.tree.map(lambda x: 10 * x, inner_state)

    for on_alarm, times in ((lambda state: state, 1 + 0.9), (tenfold, 1 + 9)):
        tx = salera_optax.page_hinkley(optax.trace(0.9), on_alarm=on_alarm)
        _, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, *HIGH, 1.0])
        assert state.action.forget
        expected = jax.tree.map(lambda g, times=times: times * g, GRADS)
        chex.assert_trees_all_close(state.inner_state.trace, expected, rtol=1e-6)


def test_a_rate_set_from_the_host_stays_at_an_alarm():
    tx = salera_optax.page_hinkley(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    state.inner_state.hyperparams["learning_rate"] = jnp.float32(0.01)
    params, state = run(tx, params, state, HIGH)
    assert state.action.go_back
    params, state = run(tx, params, state, [1.0])
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.005 * GRADS["a"], rtol=1e-6)


def test_without_rollback_an_alarm_holds_and_shrinks():
    tx = salera_optax.page_hinkley(optax.sgd(0.1), rollback=False)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    after, state = run(tx, params, state, HIGH)
    assert state.alarm
    assert (state.snapshot, state.scale) == (None, 0.5)
    assert_same_bits(after, params)


def scanned(tx, values):
    """The state after steps at these losses, in one program."""

    def body(carry, value):
        params, state = carry
        return salera_optax.step(tx, GRADS, state, params, value=value), None

    return jax.jit(lambda: jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), jnp.array(values))[0][1])()


def test_a_thousand_bad_minibatches_in_a_row_shrink_nothing():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    state = scanned(tx, [1.0] * 10 + [NAN] * 1000 + [1.0] * 10)
    assert state.scale == 1
    assert state.nonfinite == 1000
    assert state.alarms == 2, "to the snapshot, and the data are to blame"
    assert not state.action.hold


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_bad_minibatches_at_random_never_shrink_the_steps(share):
    bad = np.random.default_rng(0).random(5000) < share
    for value in (NAN, 1e6):
        tx = salera_optax.page_hinkley(optax.sgd(1e-3))
        state = scanned(tx, np.where(bad, value, 1.0))
        # A run of three, by chance, before it is known how common they are, may cost two halvings.
        assert state.scale >= (1 if share < 0.3 or np.isnan(value) else 0.25)
        if np.isnan(value):
            assert state.holds == state.nonfinite == bad.sum()


def test_every_second_minibatch_bad_and_then_all_good_is_as_if_nothing_had_been():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    state = scanned(tx, [1.0, NAN] * 100 + [1.0] * 100)
    assert (state.scale, state.alarms, state.holds) == (1, 0, 100)


@pytest.mark.parametrize("learning_rate", [1e2, 1e6, 1e9])
def test_a_rate_that_overflows_the_loss_at_every_step_gets_through_in_the_end(learning_rate):
    def loss_fn(x):
        return jnp.sum(x**8)  # the loss and the gradient overflow after one step

    for tx in (
        salera_optax.salera(learning_rate),
        salera_optax.page_hinkley(optax.sgd(learning_rate)),
    ):

        def body(carry, _, tx=tx):
            x, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(x)
            return salera_optax.step(tx, grads, state, x, value=loss), None

        x = jnp.array([1.0, -2.0])
        (x, _), _ = jax.lax.scan(body, (x, tx.init(x)), length=3000)
        assert loss_fn(x) < 1e-3 * loss_fn(jnp.array([1.0, -2.0]))


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


def test_reset_path_forgets_path_and_step_but_keeps_the_rates():
    for reset in (True, False):
        tx = salera_optax.salera(0.1, alpha=0.1, reset_path=reset)
        params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0, 1.0])
        rates = state.inner_state[1].log_rate
        _, state = run(tx, params, state, [*HIGH, 1.0])
        after = state.inner_state[1]
        assert after.step == (1 if reset else 3)
        if reset:
            chex.assert_trees_all_close(after.log_rate, rates, rtol=1e-5)
        else:
            assert all(after.log_rate[name] > rates[name] + 1e-4 for name in rates)


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
    # An alarm of `update` leaves it to the next call to restore the last bit.
    params, state = run(tx, rounded, state, [1.0])
    assert_same_bits(params, PARAMS)
    params, state = run(tx, params, state, [1.0, *HIGH])
    assert_same_bits(params, PARAMS)
    updates, state = tx.update(GRADS, state, params, value=1.0)
    assert not state.alarm
    np.testing.assert_allclose(updates["a"], -0.025 * GRADS["a"], rtol=0.01)


def test_masked_leaves_are_left_to_the_rest_of_the_chain():
    mask = {"a": True, "b": {"c": False}}
    tx = optax.masked(salera_optax.page_hinkley(optax.sgd(0.1)), mask)
    params, state = run(tx, PARAMS, tx.init(PARAMS), [1.0])
    restored, state = run(tx, params, state, HIGH)
    assert_same_bits(restored["a"], PARAMS["a"])
    np.testing.assert_allclose(
        restored["b"]["c"], params["b"]["c"] + 3 * GRADS["b"]["c"], rtol=1e-6
    )


def copies(compiled, shape):
    """The copies of an array in a program, but those in a branch that only returns its operands."""
    found = []
    for computation in compiled.as_text().split("\n}\n"):
        operations = set(re.findall(r" = \S+ ([a-z-]+)\(", computation))
        if not operations <= {"parameter", "get-tuple-element", "copy", "tuple"}:
            # But for zeros, with which an alarm overwrites a path.
            found += re.findall(
                rf".*{re.escape(shape)}\S* copy\((?!%wrapped_broadcast).*", computation
            )
    return found


def conditionals(jaxpr, shape):
    """The conditionals of a program, however deep, that return an array of this shape."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond" and any(
            v.aval.shape == shape for v in equation.outvars
        ):
            found.append(equation)
            continue
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            found += conditionals(sub, shape)
    return found


@pytest.mark.parametrize(("apply", "expected"), [("step", 4), ("update", 3)])
def test_conditionals_choose_between_stepping_and_rolling_back_on_every_backend(apply, expected):
    tx = salera_optax.page_hinkley(optax.adam(1e-3))
    params = jnp.ones(17)

    def train(params, state, grads):
        if apply == "step":
            return salera_optax.step(tx, grads, state, params, value=1.0)
        return tx.update(grads, state, params, value=1.0)

    state = tx.init(params)
    found = conditionals(jax.make_jaxpr(train)(params, state, params).jaxpr, (17,))
    # To forget Adam's moments; to take a step, or else to go back where an update does; and to
    # mend it. A step that writes the parameters has gone back before, in place.
    assert len(found) == expected
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(train), platforms=[platform])(params, state, params)
        text = exported.mlir_module()
        assert "stablehlo.case" in text or "stablehlo.if" in text


def test_the_common_path_of_the_compiled_step_copies_no_parameter():
    size = 1 << 16
    tx = salera_optax.page_hinkley(optax.adam(1e-3))

    def train(params, state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p - batch) ** 2))(params)
        return salera_optax.step(tx, grads, state, params, value=loss)

    params = jnp.ones(size)
    lowered = jax.jit(train, donate_argnums=(0, 1)).lower(params, tx.init(params), params)
    compiled = lowered.compile(AS_USERS_DO)
    assert not copies(compiled, f"f32[{size}]")


@pytest.mark.parametrize(
    ("guarded", "plain", "snapshots", "temporaries"),
    [
        (salera_optax.salera(0.1), salera_optax.alera(0.1), 1, 0),
        (salera_optax.page_hinkley(optax.adam(0.1)), optax.adam(0.1), 1, 0),
        (salera_optax.page_hinkley(optax.adam(0.1), rollback=False), optax.adam(0.1), 0, 1),
    ],
    ids=["salera", "adam", "adam, no rollback"],
)
def test_the_guard_needs_a_snapshot_or_a_temporary_and_copies_nothing(
    guarded, plain, snapshots, temporaries
):
    params = {name: jnp.ones((500, 300)) for name in "ab"}  # no multiples of 32
    unit = 2 * 500 * 300 * 4

    def compiled(tx):
        def train(params, state, batch):
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((jnp.tanh(batch @ p["a"]) @ p["b"].T - batch) ** 2)
            )(params)
            return salera_optax.step(tx, grads, state, params, value=loss)

        arguments = params, tx.init(params), jnp.ones((4, 500))
        return jax.jit(train, donate_argnums=(0, 1)).lower(*arguments).compile(AS_USERS_DO)

    def numbers(tx):
        return sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)))

    step = compiled(guarded)
    memory = step.memory_analysis()
    assert not copies(step, "f32[500,300]")
    assert memory.alias_size_in_bytes > memory.output_size_in_bytes - 1000  # all in place
    extra = memory.temp_size_in_bytes - compiled(plain).memory_analysis().temp_size_in_bytes
    assert extra <= (temporaries + 0.05) * unit
    assert 4 * (numbers(guarded) - numbers(plain)) == pytest.approx(
        snapshots * unit, rel=0.01, abs=2000
    )
