"""Every optimizer works the same inside Optax's masks, partitions, chains and accumulation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_cases import Case, every_case
from contract_runs import (
    FIRST_LAYER,
    SHORT,
    STEPS,
    Trajectory,
    assert_close,
    assert_equal,
    assert_same_avals,
    first_layer,
    gradient_sequence,
    long_run,
    loss_sequence,
    parameters,
    run,
    scan_of,
    short_run,
    slice_of,
    trajectory,
)


@functools.cache
def first_layer_run(case: Case) -> Trajectory:
    """The run of the optimizer on the first layer alone."""
    return run(case, case.build(), first_layer)


@every_case
def test_masked_optimizer_sees_only_its_leaves(case: Case) -> None:
    actual = run(case, optax.masked(case.build(), FIRST_LAYER))
    assert_equal(first_layer(actual.updates), first_layer_run(case).updates)
    assert_equal(actual.updates["temperature"], gradient_sequence()["temperature"][:SHORT])


@every_case
def test_partitioned_optimizer_sees_only_its_leaves(case: Case) -> None:
    transforms: dict[Any, Any] = {"ours": case.build(), "theirs": optax.sgd(0.5)}
    actual = run(case, optax.partition(transforms, {"Dense_0": "ours", "temperature": "theirs"}))
    assert_equal(first_layer(actual.updates), first_layer_run(case).updates)
    assert_close(actual.updates["temperature"], -0.5 * gradient_sequence()["temperature"][:SHORT])


@every_case
def test_chains_around_pass_everything_on(case: Case) -> None:
    inner = optax.chain(optax.identity(), case.build())
    tx = optax.named_chain(("clip", optax.clip_by_global_norm(1e3)), ("inner", inner))
    assert_equal(run(case, tx).updates, short_run(case).updates)


@every_case
def test_multi_steps_hands_over_the_mean_gradient(case: Case) -> None:
    multi = optax.MultiSteps(case.build(), every_k_schedule=2)
    # Every gradient twice: its mean is itself, and the loss counts when the step is taken.
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf[:SHORT], 2, axis=0), gradient_sequence())
    losses = jnp.repeat(loss_sequence()[:SHORT], 2)
    params = parameters()
    with jax.disable_jit():
        updates = trajectory(case, multi, multi.init(params), params, twice, losses).updates
    assert not any(np.any(leaf[::2]) for leaf in jax.tree.leaves(updates))
    assert_close(slice_of(updates, slice(1, None, 2)), short_run(case).updates)


@every_case
def test_multi_steps_keeps_every_dtype(case: Case) -> None:
    multi = optax.MultiSteps(case.build(), every_k_schedule=4)
    params = parameters(jnp.bfloat16)
    state = multi.init(params)
    updates, new_state = jax.eval_shape(
        functools.partial(case.update, multi), params, state, params, jnp.bfloat16(1.0)
    )
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)


@pytest.mark.slow
@every_case
def test_vmap_over_members_equals_one_by_one(case: Case) -> None:
    tx = case.build()
    another = parameters(seed=2)
    data = (another, gradient_sequence(2), jnp.linspace(3.0, 1.0, STEPS))
    members = [(parameters(), gradient_sequence(), loss_sequence()), data]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(functools.partial(trajectory, case, tx)))(
        jax.vmap(tx.init)(stacked[0]), *stacked
    )
    assert_close(slice_of(together, 0), long_run(case))
    assert_close(slice_of(together, 1), scan_of(case)(tx.init(another), *data))
