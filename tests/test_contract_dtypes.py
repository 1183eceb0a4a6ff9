"""Updates have the dtype of their parameter, statistics are wide, and a state keeps its dtypes."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_cases import Case, Tree, every_case
from contract_runs import (
    assert_equal,
    assert_same_avals,
    gradient_sequence,
    parameters,
    slice_of,
    statistics,
)

import salera_optax

DTYPES: Mapping[str, tuple[Any, ...]] = {
    "float16": (jnp.float16,),
    "bfloat16": (jnp.bfloat16,),
    "complex64": (jnp.complex64,),
    "float64": (jnp.float64,),
    "complex128": (jnp.complex128,),
    "mixed": (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64, jnp.complex64),
}


@pytest.fixture(params=list(DTYPES))
def dtypes(request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    """Dtypes for the leaves of a tree, with 64 bits where they need it."""
    wide = {np.dtype("float64"), np.dtype("complex128")}
    chosen = DTYPES[request.param]
    with jax.enable_x64(any(np.dtype(dtype) in wide for dtype in chosen)):
        yield chosen


@every_case
def test_updates_have_the_dtype_of_the_parameters_and_statistics_are_wide(
    case: Case, dtypes: tuple[Any, ...]
) -> None:
    tx = case.build()
    params = {f"leaf_{index}": jnp.ones((2, 2), dtype) for index, dtype in enumerate(dtypes)}
    state = tx.init(params)

    def update(gradients: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        return case.update(tx, gradients, state, params, params["leaf_0"][0, 0].real)

    updates, new_state = jax.eval_shape(update, params, state, params)
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)
    for leaf in jax.tree.leaves(statistics(state)):
        assert leaf.dtype.itemsize >= (8 if jnp.iscomplexobj(leaf) else 4)


@pytest.mark.parametrize(
    "tx",
    [
        salera_optax.salera(0.5, momentum=0.9, weight_decay=0.1),
        salera_optax.spalera(0.5),
        salera_optax.salera_adamw(0.5),
        salera_optax.page_hinkley(optax.adam(0.5)),
    ],
    ids=["salera", "spalera", "salera_adamw", "adam"],
)
def test_float8_beside_float32_is_trained_and_comes_back_at_an_alarm(tx: Any) -> None:
    kinds = (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float32)
    params = {np.dtype(kind).name: jnp.array([1.0, -2.0], kind) for kind in kinds}
    state = tx.init(params)
    step = jax.jit(
        lambda params, state, value: salera_optax.step(tx, g, state, params, value=value)
    )
    g = params
    trained, after = step(params, state, 1.0)
    assert_same_avals((trained, after), (params, state))
    before, moved = params, False
    for _ in range(400):  # the first steps of salera_adamw are too small for 8 bits to show
        moved = all((trained[name] != leaf).all() for name, leaf in params.items())
        if moved:
            break
        before = trained
        trained, after = step(trained, after, 1.0)
    assert moved
    for value in (1e9, 1e9, 1e9):
        trained, after = step(trained, after, value)
    assert after.alarm
    assert_equal(trained, before)


@every_case
@pytest.mark.parametrize(
    ("own", "incoming"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float16, jnp.bfloat16)],
    ids=["float32_for_bfloat16", "bfloat16_for_float32", "bfloat16_for_float16"],
)
def test_gradients_of_another_dtype_change_neither_the_parameters_nor_the_statistics(
    case: Case, own: Any, incoming: Any
) -> None:
    tx = case.build()
    params = parameters(own)
    state = tx.init(params)

    def step(state: Any, params: Tree, gradients: Tree) -> tuple[Tree, Any]:
        updates, new_state = case.update(tx, gradients, state, params, jnp.float32(1.0))
        return optax.apply_updates(params, updates), new_state

    new_params, new_state = jax.eval_shape(step, state, params, parameters(incoming))
    assert_same_avals(new_params, params)
    assert_same_avals(statistics(new_state), statistics(state))


LOSSES: Mapping[str, Callable[[], Any]] = {
    "python_float": lambda: 2.0,
    "python_int": lambda: 2,
    "numpy_float64": lambda: np.float64(2.0),
    "numpy_float16_array": lambda: np.asarray(2.0, np.float16),
    "int32": lambda: jnp.int32(2),
    "float64": lambda: jnp.asarray(2.0, float),
    "bfloat16": lambda: jnp.bfloat16(2.0),
    "weak_float": lambda: jnp.asarray(2.0),
}


@every_case
def test_state_is_stable_through_cond_and_scan_whatever_the_kind_of_the_loss(case: Case) -> None:
    tx = case.build()
    params = parameters(jnp.bfloat16)
    state = tx.init(params)

    def through_both(params: Tree, state: Any, loss: Any) -> tuple[Tree, Any]:
        def step(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], None]:
            params, state = carry
            updates, state = jax.lax.cond(
                params["temperature"] > 0,
                lambda: case.update(tx, params, state, params, loss),
                lambda: (params, state),
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=3)[0]

    with jax.enable_x64(True):  # Else a loss in 64 bits would be cut before it comes here.
        for make in LOSSES.values():
            call = functools.partial(through_both, loss=make())
            new_params, new_state = jax.eval_shape(call, params, state)
            assert_same_avals(new_params, params)
            assert_same_avals(new_state, state)


@every_case
def test_the_loss_is_the_same_number_in_every_dtype(case: Case) -> None:
    tx = case.build()
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    state = tx.init(params)
    with jax.disable_jit():
        expected = case.update(tx, gradients, state, params, jnp.float32(2.0))
        for make in LOSSES.values():
            assert_equal(case.update(tx, gradients, state, params, make()), expected)
