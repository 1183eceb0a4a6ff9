"""A loss that is missing, no number or no scalar is refused by the name of its argument."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factories import GUARD_FACTORIES, each, params

import salera_optax


@each(GUARD_FACTORIES)
def test_missing_value_is_named(make: Callable[..., Any]) -> None:
    tx = make()
    state = tx.init(params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        tx.update(params(), state, params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        jax.jit(tx.update)(params(), state, params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        optax.chain(optax.clip(1.0), tx).update(params(), (optax.EmptyState(), state), params())


@each(GUARD_FACTORIES)
def test_value_of_none_is_refused_by_name(make: Callable[..., Any]) -> None:
    tx = make()
    with pytest.raises(TypeError, match=r"\bvalue\b.*real scalar"):
        tx.update(params(), tx.init(params()), params(), value=None)


@each(GUARD_FACTORIES)
@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (0,)], ids=str)
def test_value_that_is_no_scalar_is_refused_with_its_shape(
    make: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    tx = make()
    state = tx.init(params())
    match = rf"\bvalue\b.*scalar.*{re.escape(str(shape))}"
    with pytest.raises(ValueError, match=match):
        tx.update(params(), state, params(), value=jnp.ones(shape))
    with pytest.raises(ValueError, match=match):
        jax.jit(tx.update)(params(), state, params(), value=np.ones(shape))


@each(GUARD_FACTORIES)
@pytest.mark.parametrize("value", [1 + 1j, jnp.complex64(1)], ids=repr)
def test_complex_value_is_refused_by_name(make: Callable[..., Any], value: Any) -> None:
    tx = make()
    with pytest.raises(ValueError, match=r"\bvalue must be a real scalar.*complex"):
        tx.update(params(), tx.init(params()), params(), value=value)


def test_a_value_that_is_no_number_is_shown() -> None:
    tx = salera_optax.salera(0.1)
    params = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"value must be a real scalar.*got \(1.0, \{\}\)"):
        tx.update(params, tx.init(params), params, value=(1.0, {}))
