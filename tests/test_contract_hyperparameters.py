"""Every number among the arguments can be injected, changed in the state, and put on a schedule."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_cases import Case, Tree, every_case
from contract_runs import (
    SHORT,
    Trajectory,
    assert_close,
    assert_equal,
    assert_same_avals,
    compiled_run,
    gradient_sequence,
    long_run,
    loss_sequence,
    parameters,
    run,
    short_run,
    slice_of,
    statistics,
    trajectory,
)

import salera_optax

# Another valid value of every numeric argument, far enough from the default to be seen.
ALTERNATIVES: Mapping[str, float] = {
    "learning_rate": 0.03,
    "alpha": 0.3,
    "gain": 0.05,
    "eps": 0.05,
    "momentum": 0.5,
    "clip": 0.5,
    "decay": 0.5,
    "weight_decay": 0.1,
    "b1": 0.5,
    "b2": 0.7,
    "adam_eps": 0.1,
    "eps_root": 0.1,
    "smoothing": 0.7,
    "threshold": 1.0,
    "factor": 0.25,
}


@functools.cache
def injected(case: Case) -> tuple[Any, Any]:
    """The optimizer under `inject_hyperparams`, and its compiled run."""
    tx = optax.inject_hyperparams(case.make, static_args=case.static)(**case.arguments)
    return tx, jax.jit(functools.partial(trajectory, case, tx))


def injected_run(case: Case, **changes: float) -> Trajectory:
    """Run with some hyperparameters overwritten in the state."""
    tx, scan = injected(case)
    params = parameters()
    state = tx.init(params)
    numbers = {
        name: jnp.asarray(changes.get(name, number), number.dtype)
        for name, number in state.hyperparams.items()
    }
    final: Trajectory = scan(
        state._replace(hyperparams=numbers), params, gradient_sequence(), loss_sequence()
    )
    return final._replace(state=final.state.inner_state)


def injected_numbers(case: Case) -> list[str]:
    """The numeric arguments, as `inject_hyperparams` sees them."""
    return sorted(jax.eval_shape(injected(case)[0].init, parameters()).hyperparams)


@every_case
def test_injected_hyperparameters_change_nothing(case: Case) -> None:
    assert_close(injected_run(case), long_run(case), rtol=1e-4, atol=1e-5)


@every_case
def test_every_number_among_the_arguments_is_injected(case: Case) -> None:
    defaults = inspect.signature(case.make).parameters.values()
    given = {default.name: default.default for default in defaults} | dict(case.arguments)
    numeric = [name for name, value in given.items() if type(value) in (int, float)]
    assert injected_numbers(case) == sorted(numeric)


def visible(run: Trajectory) -> Tree:
    """Where a hyperparameter can show."""
    return run.updates, statistics(run.state)


@every_case
def test_every_hyperparameter_takes_effect_when_changed_in_the_state(case: Case) -> None:
    unchanged = jax.tree.leaves(visible(injected_run(case)))
    without_effect = []
    for name in set(injected_numbers(case)) - set(case.idle):
        changed = injected_run(case, **{name: ALTERNATIVES[name]})
        leaves = zip(jax.tree.leaves(visible(changed)), unchanged, strict=True)
        if all(np.array_equal(one, other) for one, other in leaves):
            without_effect.append(name)
    assert without_effect == []


@every_case
def test_hyperparameters_changed_in_the_state_act_like_those_given_to_the_factory(
    case: Case,
) -> None:
    changes = {name: ALTERNATIVES[name] for name in injected_numbers(case)}
    if case.name == "salera_adamw":  # where it starts, init has settled by the learning rate
        del changes["learning_rate"]
    expected = compiled_run(case, case.build(**changes))
    assert_close(injected_run(case, **changes), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_hyperparameters_injected_in_bfloat16_keep_the_avals_of_the_state(case: Case) -> None:
    tx, scan = injected(case)
    params = parameters(jnp.bfloat16)
    state = tx.init(params)
    assert {number.dtype for number in state.hyperparams.values()} == {jnp.dtype("bfloat16")}
    gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), gradient_sequence())
    final = jax.eval_shape(scan, state, params, gradients, loss_sequence())
    assert_same_avals(final.state, state)
    assert_same_avals(final.params, params)


@every_case
def test_hyperparameters_injected_in_bfloat16_are_only_rounded(case: Case) -> None:
    tx, _ = injected(case)
    params = parameters(jnp.bfloat16)
    state = tx.init(params)
    rounded = case.build(**{name: float(value) for name, value in state.hyperparams.items()})
    expected = rounded.init(params)
    with jax.disable_jit():
        for step in range(3):
            gradients = slice_of(gradient_sequence(), step)
            loss = loss_sequence()[step]
            _, state = case.update(tx, gradients, state, params, loss)
            _, expected = case.update(rounded, gradients, expected, params, loss)
    assert_close(statistics(state.inner_state), statistics(expected), rtol=1e-4)


@every_case
def test_constant_schedule_is_the_same_as_its_constant(case: Case) -> None:
    schedule = optax.constant_schedule(case.arguments["learning_rate"])
    actual = run(case, case.build(learning_rate=schedule))
    assert_equal(actual.updates, short_run(case).updates)


@every_case
def test_schedule_that_falls_to_zero_stops_the_motion(case: Case) -> None:
    schedule = optax.piecewise_constant_schedule(case.arguments["learning_rate"], {2: 0.0})
    # At a healthy loss: a call that a guard holds is no step of the schedule.
    updates = run(case, case.build(learning_rate=schedule), losses=jnp.ones(SHORT)).updates
    assert all(np.all(leaf[:2] != 0) for leaf in jax.tree.leaves(updates))
    assert all(np.all(leaf[2:] == 0) for leaf in jax.tree.leaves(updates))


def test_rate_set_from_the_host_survives_an_alarm() -> None:
    injected = optax.inject_hyperparams(optax.sgd)(0.1)
    for tx in (
        salera_optax.page_hinkley(injected),
        optax.chain(salera_optax.page_hinkley(injected), optax.identity()),
    ):
        params = {"w": jnp.ones(2)}
        step = jax.jit(functools.partial(salera_optax.step, tx))
        state = tx.init(params)
        for _ in range(20):
            params, state = step(params, state, params, value=1.0)
        state = optax.tree.set(state, learning_rate=jnp.float32(0.01))
        for _ in range(2):  # the snapshot is of a step at that rate
            before, (params, state) = params, step(params, state, params, value=1.0)
        for _ in range(3):
            back, state = step(params, state, params, value=1e9)
        assert int(salera_optax.metrics(state)["alarms"]) == 1
        np.testing.assert_array_equal(back["w"], before["w"])
        assert float(optax.tree.get(state, "learning_rate")) == np.float32(0.01)
        after, state = step(back, state, back, value=1.0)
        np.testing.assert_allclose(after["w"], (1 - 0.5 * 0.01) * back["w"], rtol=1e-6)
