"""Runs of a guarded optimizer at losses that are given, with the same gradient at every step."""

import jax
import jax.numpy as jnp
import numpy as np

import salera_optax

NAN = float("nan")


def tree(*values):
    return {"a": jnp.array(values[:2]), "b": {"c": jnp.array(values[2:])}}


PARAMS = tree(1.0, -2.0, 0.1, 3.0)
GRADS = tree(0.3, 0.2, -0.1, 0.7)

HIGH = [1e9] * 3  # after a quiet loss, the third of them is an alarm


def run(tx, params, state, values, grads=GRADS):
    """Steps at these losses, one after the other."""
    for value in values:
        params, state = salera_optax.step(tx, grads, state, params, value=value)
    return params, state


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
