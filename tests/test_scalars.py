"""Scalars in two vectors, by name."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax
from salera_optax._scalars import Scalars, initial, named


class Pair(NamedTuple):
    left: Any = 0.25
    right: Any = True


class Tally(NamedTuple):
    number: Any = 3
    inside: Any = Pair()
    mean: Any = 0.5
    flag: Any = False


class TallyState(Scalars):
    number, inside, mean, flag = named(Tally())


TALLY = Tally(jnp.int32(7), Pair(jnp.float32(0.5), jnp.bool_(False)), jnp.float32(2), jnp.bool_(1))


def assert_equal(state, tally):
    for name in Tally._fields:
        found = getattr(state, name)
        assert jax.tree.structure(found) == jax.tree.structure(getattr(tally, name))
        for scalar, expected in zip(
            jax.tree.leaves(found), jax.tree.leaves(getattr(tally, name)), strict=True
        ):
            assert scalar.dtype == expected.dtype
            np.testing.assert_array_equal(scalar, expected)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_every_scalar_comes_back_under_its_name(wrap):
    state = wrap(TallyState.of)(TALLY)
    assert isinstance(state, TallyState)
    assert state.numbers.shape == (2,)
    assert (state.counts.shape, state.counts.dtype) == ((3,), jnp.int32)
    assert_equal(state, TALLY)


def test_the_example_tells_the_first_values_and_their_types():
    with jax.enable_x64(True):
        first = initial(Tally(), jnp.float64)
        assert_equal(TallyState.of(first), first)
        assert first.mean.dtype == jnp.float64
        assert (first.number, first.inside.left, first.inside.right) == (3, 0.25, True)


def test_infinities_and_nan_stay_with_their_names():
    odd = TALLY._replace(mean=jnp.float32(jnp.nan), inside=Pair(jnp.inf, jnp.bool_(True)))
    state = TallyState.of(odd)
    assert np.isnan(state.mean)
    assert state.inside.left == jnp.inf


def test_stacked_states_and_states_on_the_host_are_read_alike():
    stacked = jax.vmap(lambda n: TallyState.of(TALLY._replace(number=n)))(jnp.arange(4))
    assert stacked.number.tolist() == [0, 1, 2, 3]
    assert stacked.mean.shape == (4,)
    host = jax.device_get(stacked)
    assert isinstance(host.mean, np.ndarray)
    assert host.inside.right.tolist() == [False] * 4


@pytest.mark.parametrize("rollback", [True, False])
def test_a_guard_adds_few_arrays_to_a_state(rollback):
    params = {name: jnp.ones(3) for name in "abcdefgh"}
    inner = optax.adam(0.1)
    guard = salera_optax.page_hinkley(inner, rollback=rollback)
    added = len(jax.tree.leaves(guard.init(params))) - len(jax.tree.leaves(inner.init(params)))
    assert added == 7 + (len(params) if rollback else 0)
    alera = salera_optax.scale_by_alera()
    assert len(jax.tree.leaves(alera.init(params))) == len(params) + 3


def test_an_abstract_state_tells_shapes_and_dtypes():
    state = jax.eval_shape(salera_optax.salera(0.1).init, jnp.ones(3))
    assert (state.scale.shape, state.scale.dtype) == ((), jnp.float32)
    assert (state.alarm.shape, state.alarm.dtype) == ((), jnp.bool_)
