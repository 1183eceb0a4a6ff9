"""The average of the parameters, alone and inside a guard."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import salera_optax
from salera_optax import eval_params, polynomial_averaging

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"a": jnp.array([0.3, 0.2]), "b": jnp.array(-0.1)}


def trained(tx, values, params=PARAMS):
    """The parameters before every step, and what is there in the end."""
    state, seen = tx.init(params), []
    for value in values:
        seen.append(params)
        params, state = salera_optax.step(tx, GRADS, state, params, value=value)
    return seen, params, state


@pytest.mark.parametrize("degree", [0, 1, 16])
def test_the_average_is_the_weighted_mean_of_all_parameters(degree):
    tx = optax.chain(optax.sgd(0.1), polynomial_averaging(degree))
    seen, params, state = trained(tx, [1.0] * 12)
    # As products, from the last one back: what each step has left of those before it.
    shares = np.array([(degree + 1) / (t + degree) for t in range(1, 13)])
    weights = shares * np.append(np.cumprod((1 - shares)[:0:-1])[::-1], 1)
    assert weights.sum() == pytest.approx(1)
    if degree == 0:
        np.testing.assert_allclose(weights, 1 / 12)
    expected = sum(w * np.asarray(p["a"]) for w, p in zip(weights, seen, strict=True))
    np.testing.assert_allclose(eval_params(state, params)["a"], expected, rtol=1e-5)


def test_before_the_first_step_the_parameters_are_their_own_average():
    tx = salera_optax.salera_adamw(average=True)
    state = tx.init(PARAMS)
    assert jnp.array_equal(eval_params(state, PARAMS)["a"], PARAMS["a"])
    abstract = jax.eval_shape(tx.init, PARAMS)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)


def test_it_changes_neither_the_updates_nor_the_run():
    with_it, without = (
        trained(salera_optax.salera_adamw(average=average), [1.0] * 20)[1]
        for average in (True, False)
    )
    assert jnp.array_equal(with_it["a"], without["a"])


def test_parameters_that_exploded_never_enter_and_an_alarm_starts_over():
    tx = salera_optax.page_hinkley(optax.chain(optax.sgd(0.1), polynomial_averaging()))
    _, params, state = trained(tx, [1.0] * 5)
    before = eval_params(state, params)
    lost = jax.tree.map(lambda p: 1e20 * p, params)
    for _ in range(2):  # held: the third high loss in a row is an alarm
        same, state = salera_optax.step(tx, GRADS, state, lost, value=1e30)
    assert jnp.array_equal(eval_params(state, same)["a"], before["a"])
    params, state = salera_optax.step(tx, GRADS, state, same, value=1e30)
    assert state.alarm
    params, state = salera_optax.step(tx, GRADS, state, params, value=1.0)
    average = optax.tree.get(state, "average")
    assert optax.tree.get(state, "number") == 1, "the first one after it"
    assert jnp.abs(average["a"]).max() < 10


def test_small_floats_are_averaged_in_wide_ones():
    tx = optax.chain(optax.sgd(0.1), polynomial_averaging())
    small = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    state = tx.init(small)
    assert optax.tree.get(state, "average")["a"].dtype == jnp.float32
    _, state = tx.update(small, state, small)
    assert eval_params(state, small)["a"].dtype == jnp.bfloat16


def test_masked_leaves_stay_and_the_structure_is_that_of_the_parameters():
    tx = optax.masked(polynomial_averaging(), {"a": True, "b": False})
    state = tx.init(PARAMS)
    moved = jax.tree.map(lambda p: p + 1, PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    found = eval_params(state, moved)
    assert jnp.array_equal(found["a"], PARAMS["a"])
    assert found["b"] == moved["b"]
    net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    params = nnx.state(net, nnx.Param)
    pure = {"bias": jnp.zeros(3), "kernel": jnp.zeros((2, 3))}  # what an nnx optimizer keeps
    average = polynomial_averaging().init(pure)
    assert jax.tree.structure(eval_params(average, params)) == jax.tree.structure(params)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="degree must be finite and at least 0"):
        polynomial_averaging(-1)
    tx = polynomial_averaging()
    with pytest.raises(ValueError, match="params must be the parameters, got None"):
        tx.update(GRADS, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"opt_state must hold one average.*got 0"):
        eval_params(optax.adam(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="params must have the tree structure"):
        eval_params(tx.init(PARAMS), GRADS["a"])
