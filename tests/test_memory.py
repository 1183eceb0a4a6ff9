"""What an optimizer remembers of the gradients starts over after an alarm; all else stays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from guarded_runs import GRADS, HIGH, PARAMS, assert_same_bits, run

import salera_optax


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
