"""The rule of mean + 6 deviations, of a detector and of the guards that skip steps by it."""

import jax
import jax.numpy as jnp


def stands_out(
    value: jax.Array,
    window: jax.Array,
    count: jax.Array,
    factor: float = 6,
    least: int | None = None,
) -> jax.Array:
    """Whether a value is above mean + `factor` deviations of those before: is NaN, or they are.

    Args:
      value: the newest, a scalar.
      window: the ones before, in any order, 128 in OLMo-core and Levanter.
      count: how many there have been.
      factor: number of deviations, at least 0.
      least: nothing stands out before there have been so many; by default half the window.
    """
    known = jnp.arange(window.size) < count
    mean = jnp.mean(window, where=known)
    deviation = jnp.std(window, where=known, ddof=1)
    least = window.size // 2 if least is None else least
    return (count >= least) & ~(value - mean <= factor * deviation)
