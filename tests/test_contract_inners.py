"""Every optimizer of Optax can be guarded, and keeps its shapes and dtypes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from contract_runs import FIRST_LAYER, assert_same_avals, parameters, structure

import salera_optax

INNERS: Mapping[str, Callable[[], Any]] = {
    "adabelief": lambda: optax.adabelief(0.1),
    "adadelta": lambda: optax.adadelta(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "adagrad": lambda: optax.adagrad(0.1),
    "adamw": lambda: optax.adamw(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "lars": lambda: optax.lars(0.1),
    "lbfgs": lambda: optax.lbfgs(0.1, linesearch=None),
    "lion": lambda: optax.lion(0.1),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=0),
    "novograd": lambda: optax.novograd(0.1),
    "polyak_sgd": optax.polyak_sgd,
    "rmsprop_centered": lambda: optax.rmsprop(0.1, centered=True, momentum=0.9),
    "yogi": lambda: optax.yogi(0.1),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 5),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "masked": lambda: optax.masked(optax.adam(0.1), FIRST_LAYER),
    "dog": lambda: optax.contrib.dog(1.0),
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(1.0)),
    "muon": lambda: optax.contrib.muon(0.1),
    "prodigy": lambda: optax.contrib.prodigy(0.1),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", INNERS.values(), ids=INNERS.keys())
def test_every_optimizer_of_optax_can_be_guarded(make: Callable[[], Any], dtype: Any) -> None:
    tx = salera_optax.page_hinkley(make())
    params = parameters(dtype)
    state = tx.init(params)
    assert_same_avals(jax.eval_shape(tx.init, params), state)
    updates, new_state = jax.eval_shape(
        functools.partial(tx.update, value=jnp.float32(1.0)), params, state, params
    )
    assert_same_avals(updates, params)
    assert structure(new_state) == structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(new_state)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]
