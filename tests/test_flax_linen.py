"""The train state for Linen: drop-in, and an exact rollback of parameters and batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state
from flax_training import (
    GUARDED,
    INPUTS,
    alarms,
    assert_same_bits,
    holds,
    linen_state,
    linen_step,
    loss_and_gradient,
    train,
)

import salera_optax


@jax.jit
def linen_step_with_faulty_weights(state, inputs, factor):
    """A step after the parameters have been multiplied by `factor`."""
    params = jax.tree.map(lambda p: p * factor, state.params)
    return linen_step(state.replace(params=params), inputs)


# What multiplies the inputs, and how many such minibatches in a row are an alarm.
FAULTS = [(np.nan, 9), (np.inf, 9), (1e6, 3)]


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e6])
def test_linen_bad_minibatch_changes_neither_parameters_nor_batch_statistics(tx, fault):
    before = train(linen_state(tx), INPUTS[:20])
    assert (alarms(before), holds(before)) == (0, 0)
    held = linen_step(before, fault * INPUTS[20])
    assert (alarms(held), holds(held)) == (0, 1)
    assert_same_bits((held.params, held.batch_stats), (before.params, before.batch_stats))
    assert_same_bits(held.snapshot, before.snapshot)
    assert int(held.step) == 21
    after = linen_step(held, INPUTS[21])
    expected = linen_step(before, INPUTS[21])
    assert_same_bits((after.params, after.batch_stats), (expected.params, expected.batch_stats))


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_linen_alarm_brings_back_parameters_and_batch_statistics(tx, fault, calls):
    before = train(linen_state(tx), INPUTS[:19])
    good = linen_step(before, INPUTS[19])
    held = train(good, [fault * INPUTS[20]] * (calls - 1))
    assert alarms(held) == 0
    assert_same_bits((held.params, held.batch_stats), (good.params, good.batch_stats))
    back = linen_step(held, fault * INPUTS[20])
    assert alarms(back) == 1
    assert_same_bits((back.params, back.batch_stats), (before.params, before.batch_stats))
    assert int(back.step) == 20 + calls
    again = linen_step(back, fault * INPUTS[20])  # is held there
    assert alarms(again) == 1
    assert_same_bits((again.params, again.batch_stats), (before.params, before.batch_stats))
    after = linen_step(back, INPUTS[21])
    assert alarms(after) == 1
    assert not np.array_equal(after.params["Dense_0"]["kernel"], before.params["Dense_0"]["kernel"])


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize(("factor", "calls"), [(np.nan, 9), (1e6, 3)])
def test_linen_alarm_heals_broken_parameters(tx, factor, calls):
    before = train(linen_state(tx), INPUTS[:19])
    good = linen_step(before, INPUTS[19])
    broken = linen_step_with_faulty_weights(good, INPUTS[20], factor)
    assert_same_bits(broken.params, jax.tree.map(lambda p: p * factor, good.params))
    held = train(broken, [INPUTS[20]] * (calls - 2))
    assert alarms(held) == 0
    assert_same_bits((held.params, held.batch_stats), (broken.params, good.batch_stats))
    back = linen_step(held, INPUTS[20])
    assert alarms(back) == 1
    assert_same_bits((back.params, back.batch_stats), (before.params, before.batch_stats))


@pytest.mark.parametrize("tx", [optax.adam(0.01), optax.sgd(0.1, momentum=0.9)])
def test_linen_without_a_guard_is_flax_s_own(tx):
    class FlaxState(train_state.TrainState):
        batch_stats: dict

    ours, flax_s = linen_state(tx), linen_state(tx, FlaxState)
    assert ours.snapshot is None
    for inputs in INPUTS[:5]:
        _, batch_stats, grads = loss_and_gradient(ours, inputs)
        ours = ours.apply_gradients(grads=grads, batch_stats=batch_stats)
        flax_s = flax_s.apply_gradients(grads=grads, batch_stats=batch_stats)
    assert_same_bits(
        (ours.params, ours.batch_stats, ours.opt_state),
        (flax_s.params, flax_s.batch_stats, flax_s.opt_state),
    )
    assert ours.step == flax_s.step == 5


def test_linen_without_alarm_is_a_plain_guarded_run():
    @jax.jit
    def plain_step(state, inputs):
        loss, batch_stats, grads = loss_and_gradient(state, inputs)
        params, opt_state = salera_optax.step(
            state.tx, grads, state.opt_state, state.params, value=loss
        )
        return state.replace(params=params, opt_state=opt_state, batch_stats=batch_stats)

    state = plain = linen_state(salera_optax.salera(0.01))
    for inputs in INPUTS[:10]:
        state, plain = linen_step(state, inputs), plain_step(plain, inputs)
    jax.tree.map(  # two programs, which may round differently
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        (state.params, state.batch_stats),
        (plain.params, plain.batch_stats),
    )


def test_linen_gives_the_loss_to_an_optimizer_that_takes_it():
    def update(updates, state, params=None, *, value, **extra):
        del state, params, extra
        return jax.tree.map(lambda u: -0.1 * value * u, updates), value

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    state = linen_step(linen_state(tx), INPUTS[0])
    assert float(state.opt_state) > 0


def test_linen_what_was_loaded_after_create_is_kept_and_comes_back():
    state = linen_state(salera_optax.page_hinkley(optax.adam(0.01)))
    loaded = jax.tree.map(lambda x: x + 7, (state.params, state.batch_stats))
    state = state.replace(params=loaded[0], batch_stats=loaded[1])
    for _ in range(9):
        state = linen_step(state, np.nan * INPUTS[0])
        assert_same_bits((state.params, state.batch_stats), loaded)
    assert (alarms(state), holds(state)) == (0, 9)
    after = linen_step(state, INPUTS[1])
    assert not np.array_equal(after.params["Dense_1"]["bias"], loaded[0]["Dense_1"]["bias"])
    after = train(after, [np.nan * INPUTS[2]] * 9)
    assert alarms(after) == 1
    assert_same_bits((after.params, after.batch_stats), loaded)


@pytest.mark.parametrize(
    "tx",
    [
        optax.apply_if_finite(salera_optax.salera(0.01), 5),
        salera_optax.MultiSteps(
            salera_optax.salera(0.01), 2, should_skip_update_fn=optax.skip_not_finite
        ),
    ],
    ids=["apply_if_finite", "MultiSteps"],
)
def test_linen_minibatch_that_is_skipped_leaves_no_nan_behind(tx):
    before = train(linen_state(tx), INPUTS[:4])
    after = linen_step(before, np.nan * INPUTS[4])
    assert alarms(after) == 0
    assert_same_bits(after.batch_stats, before.batch_stats)


@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_linen_without_rollback_a_held_call_changes_no_batch_statistics(fault, calls):
    tx = salera_optax.page_hinkley(optax.sgd(0.1), rollback=False)
    before = train(linen_state(tx), INPUTS[:5])
    held = train(before, [fault * INPUTS[5]] * calls)
    assert (alarms(held), holds(held)) == (1, calls)
    assert_same_bits((held.params, held.batch_stats), (before.params, before.batch_stats))
    after = linen_step(held, INPUTS[6])
    assert holds(after) == calls
    assert not np.array_equal(
        after.batch_stats["BatchNorm_0"]["mean"], before.batch_stats["BatchNorm_0"]["mean"]
    )


@pytest.mark.parametrize("multi_steps", [optax.MultiSteps, salera_optax.MultiSteps])
def test_linen_accumulation_rolls_back_to_the_last_accepted_step(multi_steps):
    tx = multi_steps(salera_optax.page_hinkley(optax.sgd(0.1)), every_k_schedule=2)
    states = [linen_state(tx)]
    for inputs in INPUTS[:20]:
        states.append(linen_step(states[-1], inputs))
    for _ in range(3):
        assert alarms(states[-1]) == 0
        assert_same_bits(states[-1].params, states[20].params)
        for inputs in (INPUTS[20], 1e6 * INPUTS[21]):
            states.append(linen_step(states[-1], inputs))
    assert alarms(states[-1]) == 1
    # The parameters of the tenth window; the statistics that stood beside them before its end.
    assert_same_bits(states[-1].params, states[19].params)
    assert_same_bits(states[-1].batch_stats, states[19].batch_stats)
    assert not np.array_equal(
        states[20].params["Dense_1"]["bias"], states[19].params["Dense_1"]["bias"]
    )
    after = linen_step(states[-1], INPUTS[22])  # no step yet, but the statistics move on
    assert_same_bits(after.params, states[19].params)
    assert not np.array_equal(
        after.batch_stats["BatchNorm_0"]["mean"], states[19].batch_stats["BatchNorm_0"]["mean"]
    )


def test_linen_state_runs_in_a_scan_and_may_be_donated():
    state = linen_state(salera_optax.salera(0.01)).replace(step=jnp.int32(0))
    batches = INPUTS.at[10].set(np.nan).at[25:28].multiply(1e6)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, b: (linen_step(s, b), None), state, batches)[0]

    one_by_one = train(state, batches)
    scanned = jax.jit(run, donate_argnums=0)(state)
    assert (alarms(scanned), holds(scanned)) == (1, 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scanned, one_by_one
    )
