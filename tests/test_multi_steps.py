"""Gradient accumulation: the optimizer sees the mean loss, and a bad minibatch does not linger."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

PARAMS = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.25)}


def remembers_value():
    """SGD whose state is the loss it was last given."""

    def update(updates, state, params=None, *, value, **extra):
        del state, params, extra
        return jax.tree.map(lambda u: -0.1 * u, updates), jnp.asarray(value, jnp.float32)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


def batches(number, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    inputs = jax.random.normal(keys[0], (number, 8, 3))
    return inputs, inputs.sum(2) + 0.1 * jax.random.normal(keys[1], (number, 8))


def loss_fn(params, inputs, targets):
    return jnp.mean((inputs @ params["w"] + params["b"] - targets) ** 2)


def run(tx, inputs, targets):
    """Trains on every minibatch in turn; returns parameters and state after each."""

    def one_step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        carry = salera_optax.step(tx, grads, state, params, value=loss)
        return carry, carry

    @jax.jit
    def scan(params):
        return jax.lax.scan(one_step, (params, tx.init(params)), (inputs, targets))[1]

    return scan(PARAMS)


def test_the_optimizer_is_given_the_mean_loss():
    tx = salera_optax.MultiSteps(remembers_value(), every_k_schedule=4)
    state = tx.init(PARAMS)
    for value in (1.0, 2.0, 3.0, 6.0):
        _, state = tx.update(PARAMS, state, PARAMS, value=value)
    assert float(state.multi_steps.inner_opt_state) == 3.0
    assert bool(tx.has_updated(state))
    for value in (7.0, 8.0, 9.0, 12.0):  # the next mean starts anew
        assert float(state.multi_steps.inner_opt_state) == 3.0
        _, state = tx.update(PARAMS, state, PARAMS, value=value)
    assert float(state.multi_steps.inner_opt_state) == 9.0


def test_a_schedule_may_change_the_number_of_minibatches():
    tx = salera_optax.MultiSteps(remembers_value(), lambda step: jnp.where(step < 1, 1, 3))
    state = tx.init(PARAMS)
    seen = []
    for value in (5.0, 1.0, 2.0, 6.0, 2.0, 2.0, 8.0):
        _, state = tx.update(PARAMS, state, PARAMS, value=value)
        seen.append(float(state.multi_steps.inner_opt_state))
    assert seen == [5.0, 5.0, 5.0, 3.0, 3.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "tx", [salera_optax.salera(0.1), salera_optax.page_hinkley(optax.adam(0.1))]
)
def test_accumulating_equals_the_large_minibatch(tx):
    inputs, targets = batches(24)
    params, state = run(salera_optax.MultiSteps(tx, 4), inputs, targets)
    large, guard = run(tx, inputs.reshape(6, 32, 3), targets.reshape(6, 32))
    inner = jax.tree.map(lambda x: x[3::4], state.multi_steps.inner_opt_state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        (jax.tree.map(lambda x: x[3::4], params), inner),
        (large, guard),
    )


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_bad_minibatch_is_held_and_does_not_linger(bad):
    inputs, targets = batches(40)
    inputs = inputs.at[20 + bad].set(jnp.nan)
    params, state = run(salera_optax.MultiSteps(salera_optax.salera(0.1), 4), inputs, targets)
    guard = state.multi_steps.inner_opt_state
    assert np.flatnonzero(guard.action.hold).tolist() == [23]
    assert guard.holds[-1] == guard.nonfinite[-1] == 1
    assert guard.alarms[-1] == 0
    assert guard.scale[-1] == 1
    for call in range(20, 27):
        np.testing.assert_array_equal(params["w"][call], params["w"][19])
    assert np.isfinite(params["w"]).all()
    assert not np.array_equal(params["w"][27], params["w"][23])


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_bad_minibatch_in_three_steps_rolls_back_once(bad):
    inputs, targets = batches(128)
    targets = targets.at[jnp.array([100, 104, 108]) + bad].add(1e6)
    params, state = run(salera_optax.MultiSteps(salera_optax.salera(0.01), 4), inputs, targets)
    guard = state.multi_steps.inner_opt_state
    assert np.flatnonzero(guard.action.hold).tolist() == [103, 107, 111]
    for done in (guard.alarm, guard.action.go_back):
        assert np.flatnonzero(done).tolist() == [111]
    assert guard.alarms[-1] == 1
    assert guard.scale[-1] == 0.5
    # Back to what they were through the window before the last step.
    for call in range(100, 111):
        np.testing.assert_array_equal(params["w"][call], params["w"][99])
    assert not np.array_equal(params["w"][99], params["w"][95])
    np.testing.assert_array_equal(params["w"][111], params["w"][95])
    assert not np.array_equal(params["w"][115], params["w"][111])


def test_an_explosion_in_any_minibatch_is_seen():
    inputs, targets = batches(400)
    targets = targets.at[361].add(1000.0)  # the second of four, which Optax's would not pass on
    _, state = run(
        salera_optax.MultiSteps(salera_optax.page_hinkley(optax.sgd(0.1)), 4), inputs, targets
    )
    guard = state.multi_steps.inner_opt_state
    assert np.flatnonzero(guard.action.hold).tolist() == [363]
    (row,) = salera_optax.events(jax.tree.map(lambda x: x[-1], state))
    assert (row["step"], row["cause"]) == (90, "doubt")


def test_a_rejected_minibatch_counts_neither_in_gradient_nor_loss():
    tx = salera_optax.MultiSteps(remembers_value(), 2, should_skip_update_fn=optax.skip_not_finite)
    state = tx.init(PARAMS)
    updates = []
    for value, factor in ((1.0, 1.0), (50.0, jnp.nan), (3.0, 3.0), (50.0, jnp.nan), (7.0, 1.0)):
        grads = jax.tree.map(lambda p, factor=factor: factor * jnp.ones_like(p), PARAMS)
        moves, state = tx.update(grads, state, PARAMS, value=value)
        updates.append(float(moves["b"]))
    np.testing.assert_allclose(updates, [0, 0, -0.2, 0, 0], rtol=1e-6)
    assert float(state.multi_steps.inner_opt_state) == 2.0
    assert float(state.mean_value) == 7.0


def test_as_a_transformation_it_composes():
    tx = optax.chain(
        salera_optax.MultiSteps(remembers_value(), 2).gradient_transformation(), optax.scale(2.0)
    )
    state = tx.init(PARAMS)
    for value in (1.0, 3.0):
        _, state = tx.update(PARAMS, state, PARAMS, value=value)
    assert float(state[0].multi_steps.inner_opt_state) == 2.0


def test_missing_value_is_named():
    tx = salera_optax.MultiSteps(salera_optax.salera(0.1), 2)
    with pytest.raises(TypeError, match="MultiSteps: missing argument 'value'"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_value_of_any_float_dtype_keeps_the_state():
    tx = salera_optax.MultiSteps(salera_optax.salera(0.1), 2)
    state = tx.init(PARAMS)
    for value in (1.0, jnp.bfloat16(2), jnp.float16(3), np.float64(4)):
        _, after = tx.update(PARAMS, state, PARAMS, value=value)
        assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
