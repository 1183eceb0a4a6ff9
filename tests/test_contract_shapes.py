"""Every optimizer takes trees and arrays of every shape, empty ones and zeros too."""

import functools

import jax
import jax.numpy as jnp
import pytest
from contract_cases import Case, Tree, every_case
from contract_runs import assert_equal, assert_finite, assert_same_avals, parameters


@every_case
@pytest.mark.parametrize("empty", [{}, (), [], {"block": {}}], ids=repr)
def test_empty_tree_is_updated_to_an_empty_tree(case: Case, empty: Tree) -> None:
    tx = case.build()
    state = tx.init(empty)
    updates, new_state = jax.eval_shape(
        lambda state: case.update(tx, empty, state, empty, jnp.float32(1.0)), state
    )
    assert updates == empty
    assert_same_avals(new_state, state)


@every_case
def test_scalar_zero_size_and_absent_leaves_get_finite_updates(case: Case) -> None:
    tx = case.build()
    params = {
        "scalar": jnp.float32(1.0),
        "nothing": jnp.zeros((0,)),
        "no_rows": jnp.zeros((0, 3)),
        "row": jnp.ones((1, 3)),
        "absent": None,
    }
    gradients = jax.tree.map(lambda leaf: leaf + 0.5, params)
    state = tx.init(params)
    with jax.disable_jit():
        for _ in range(3):
            updates, state = case.update(tx, gradients, state, params, 1.0)
            assert_finite((updates, state))
            assert_same_avals(updates, params)
    assert float(updates["scalar"]) < 0.0


@every_case
def test_bare_array_is_a_tree_too(case: Case) -> None:
    tx = case.build()
    params = jnp.ones((2,))
    state = tx.init(params)
    updates, new_state = jax.eval_shape(
        functools.partial(case.update, tx), params, state, params, 1.0
    )
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)


@every_case
def test_zero_gradients_at_zero_move_nothing(case: Case) -> None:
    tx = case.build()
    zeros = jax.tree.map(jnp.zeros_like, parameters())
    state = tx.init(zeros)
    with jax.disable_jit():
        for loss in (1.0, 1.0, 50.0, 1.0):
            updates, state = case.update(tx, zeros, state, zeros, loss)
            assert_equal(updates, zeros)
            assert_finite(state)
