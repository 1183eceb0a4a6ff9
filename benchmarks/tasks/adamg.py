"""AdamG: Adam whose gradients are scaled by a function of their second moments.

Source: Pang, Yu, Hoang, Zhou, "Towards Stability of Parameter-free Optimization", arXiv 2405.04376.
The constants are the authors', as two public implementations agree on them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ScaleByAdamGState(NamedTuple):
    """Number of steps, and averages like the parameters: of r g, of g^2, and of s(v)."""

    step: jax.Array
    m: Any
    v: Any
    r: Any


def adamg(
    learning_rate: jax.typing.ArrayLike = 1.0,
    b1: float = 0.95,
    b2: float = 0.999,
    b3: float = 0.95,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with the golden step size, s(v) = 0.2 v^0.24, and a step of min(rate, 1/sqrt(k))."""

    def init_fn(params: Any) -> ScaleByAdamGState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByAdamGState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, ScaleByAdamGState]:
        del params
        step = state.step + 1
        v = _average(state.v, jax.tree.map(jnp.square, updates), b2)
        r = _average(state.r, jax.tree.map(lambda v: 0.2 * v**0.24, v), b3)
        m = _average(state.m, jax.tree.map(jnp.multiply, r, updates), b1)
        size = jnp.minimum(learning_rate, 1 / jnp.sqrt(step)) / (1 - b1**step)
        moves = jax.tree.map(lambda m, v: -size * m / (jnp.sqrt(v / (1 - b2**step)) + eps), m, v)
        return moves, ScaleByAdamGState(step, m, v, r)

    return optax.GradientTransformation(init_fn, update_fn)


def _average(old: Any, new: Any, decay: float) -> Any:
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, old, new)
