"""Optax's tools find their way in every state, and its sharding is the same from `init` on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_cases import Case, every_case
from contract_runs import FIRST_LAYER, assert_equal, parameters, structure

import salera_optax


def test_tree_get_finds_the_one_count_of_a_guarded_adam() -> None:
    tx = salera_optax.page_hinkley(optax.adam(0.1))
    params = parameters()
    state = tx.init(params)
    for loss in (1.0, np.nan, 1.0, 1.0):
        params, state = salera_optax.step(tx, params, state, params, value=loss)
    assert int(optax.tree_utils.tree_get(state, "count")) == 3  # a held call is no step
    assert len(optax.tree.get_all_with_path(state, "count")) == 1
    for name in ("mu", "nu"):
        assert structure(optax.tree.get(state, name)) == structure(params)


@every_case
def test_tree_map_params_finds_the_trees_like_the_parameters_in_the_state(case: Case) -> None:
    tx = case.build()
    params = parameters()
    state = tx.init(params)
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)
    assert_equal(optax.tree.map_params(tx.init, lambda leaf: leaf, state), state)

    specs = jax.tree.map(lambda leaf: f"spec of rank {leaf.ndim}", params)
    mapped = optax.tree.map_params(
        tx,
        lambda leaf, spec: f"rank {leaf.ndim}, {spec}",
        state,
        specs,
        transform_non_params=lambda _: "no parameter",
    )
    found = [leaf for leaf in jax.tree.leaves(mapped) if leaf != "no parameter"]
    expected = [f"rank {leaf.ndim}, spec of rank {leaf.ndim}" for leaf in jax.tree.leaves(params)]
    assert found == expected * (len(found) // len(expected))
    assert found


@every_case
def test_tree_map_params_works_on_a_masked_state(case: Case) -> None:
    tx = optax.masked(case.build(), FIRST_LAYER)
    state = tx.init(parameters())
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


@every_case
def test_sharding_of_the_state_is_the_same_after_init_and_after_update(case: Case) -> None:
    tx = case.build()
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec: Any = jax.sharding.PartitionSpec
    sharding = jax.sharding.NamedSharding(mesh, spec(None, "x"))
    with jax.sharding.set_mesh(mesh):
        params = jnp.zeros((2, 8 * len(devices)), jnp.float16, out_sharding=sharding)
        state = tx.init(params)
        types = jax.tree.map(jax.typeof, state)
        assert jax.tree.map(jax.typeof, jax.jit(tx.init)(params)) == types
        for update in (tx.update, jax.jit(tx.update)):
            updates, new_state = update(params, state, params, **case.extra(jnp.float32(1.0)))
            assert jax.typeof(updates) == jax.typeof(params)
            assert jax.tree.map(jax.typeof, new_state) == types
