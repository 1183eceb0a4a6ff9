"""Every optimizer can be called as those of Optax are: eagerly, compiled, donated, abstractly."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_cases import CASES, Case, Tree, every, every_case, the_loss
from contract_runs import (
    STEPS,
    assert_close,
    assert_equal,
    assert_finite,
    assert_same_avals,
    compiled_run,
    described,
    gradient_sequence,
    long_run,
    loss_sequence,
    parameters,
    run,
    scan_of,
    short_run,
    slice_of,
)

import salera_optax


@every([case for case in CASES if case.extra is the_loss])
def test_the_runs_of_this_suite_hold_an_alarm_and_go_on_after_it(case: Case) -> None:
    for finished in (short_run(case), long_run(case)):
        guard = finished.state
        assert isinstance(guard, salera_optax.PageHinkleyState)
        assert int(guard.alarms) >= 1
        assert float(guard.scale) < 1
        assert int(guard.holds) < int(guard.step) - 2
    moves = short_run(case).updates["Dense_0"]["kernel"]
    rows = salera_optax.events(short_run(case).state)
    (alarm,) = [row["step"] for row in rows if row["alarm"]]
    moved_back = np.any(moves[alarm] != 0)
    assert moved_back == (guard.snapshot is not None)
    before = -moves[:alarm][np.any(moves[:alarm] != 0, axis=(1, 2))][-1]
    if moved_back:  # the last step is taken back
        np.testing.assert_allclose(moves[alarm], before, rtol=1e-4, atol=1e-6)


@every_case
def test_unknown_extra_arguments_are_ignored(case: Case) -> None:
    tx = case.build()
    unknown = {"unknown_number": 1, "unknown_text": "text", "unknown_tree": parameters()}
    curious = optax.GradientTransformationExtraArgs(
        tx.init, functools.partial(tx.update, **unknown)
    )
    assert_equal(run(case, curious), short_run(case))


@every_case
def test_state_is_a_tree_of_arrays_and_nothing_else(case: Case) -> None:
    init = case.build().init
    for state in (init(parameters()), jax.jit(init)(parameters()), short_run(case).state):
        for path, leaf in jax.tree.leaves_with_path(state):
            assert isinstance(leaf, jax.Array), jax.tree_util.keystr(path)
        assert_same_avals(state, init(parameters()))


@every_case
def test_update_leaves_its_inputs_as_they_were(case: Case) -> None:
    tx = case.build()
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    inputs: Any = (gradients, tx.init(params), params)
    frozen: Any = jax.tree.map(np.array, inputs)
    jax.tree.map(lambda leaf: leaf.setflags(write=False), frozen)
    with jax.disable_jit():
        from_numpy = case.update(tx, frozen[0], frozen[1], frozen[2], np.float32(1.0))
        from_jax = case.update(tx, inputs[0], inputs[1], inputs[2], jnp.float32(1.0))
    assert_equal(inputs, frozen)
    assert_close(from_numpy, from_jax)


@every_case
def test_the_same_run_twice_gives_the_same_bits(case: Case) -> None:
    assert_equal(compiled_run(case, case.build(), scan_of(case)), long_run(case))


@every_case
def test_donated_training_loop_compiles_once_also_after_a_round_trip(case: Case) -> None:
    tx = case.build()

    def train(params: Tree, state: Any, gradients: Tree, loss: Any) -> tuple[Tree, Any]:
        updates, state = case.update(tx, gradients, state, params, loss)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(train, donate_argnums=(0, 1))
    params = parameters()
    state = tx.init(params)
    for step in range(STEPS):
        donated = params
        gradients = slice_of(gradient_sequence(), step)
        params, state = compiled(params, state, gradients, loss_sequence()[step])
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        if step == STEPS // 2:
            params, state = jax.device_put(jax.tree.map(np.array, (params, state)))
    assert compiled._cache_size() == 1
    assert_close(params, long_run(case).params)


@every_case
def test_results_outlive_the_buffers_of_the_parameters(case: Case) -> None:
    tx = case.build()
    for init in (tx.init, jax.jit(tx.init)):
        params = parameters()
        state = init(params)
        jax.tree.map(lambda leaf: leaf.delete(), params)
        assert_finite(state)
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    with jax.disable_jit():
        results = case.update(tx, gradients, state, params, 1.0)
    jax.tree.map(lambda leaf: leaf.delete(), (params, gradients))
    assert_finite(results)


@every_case
def test_init_works_on_abstract_parameters_and_under_jit(case: Case) -> None:
    tx = case.build()
    params = parameters()
    expected = tx.init(params)
    assert_same_avals(jax.eval_shape(tx.init, params), expected)
    assert_same_avals(jax.eval_shape(tx.init, described(params)), expected)
    assert_close(jax.jit(tx.init)(params), expected, rtol=1e-6, atol=0)


@every_case
def test_init_takes_descriptions_of_the_parameters_for_the_parameters(case: Case) -> None:
    tx = case.build()
    assert_same_avals(tx.init(described(parameters())), tx.init(parameters()))
