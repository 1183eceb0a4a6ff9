"""The random walk that ALERA compares with: the law of the squared norm of its path.

The path is `p_t = (1 - alpha) p_{t-1} + alpha u_t` with `p_0 = 0` and independent unit vectors
`u_t`, uniform on the sphere of dimension `d`. With `q = (1 - alpha)^2` and the weights
`w_k = alpha (1 - alpha)^(t-k)`,

    E ||p_t||^2   = sum_k w_k^2 = alpha/(2 - alpha) (1 - q^t)                             (Eq. 4)
    Var ||p_t||^2 = 2/d sum_{k != l} w_k^2 w_l^2
                  = 4 alpha^2 q (1 - q^t)(1 - q^(t-1)) / (d (2 - alpha)^2 (1 + q))        (Eq. 5)

Eq. 5 is corrected here: as printed in arXiv 1709.01427 it has 2 for the factor 4 and half the
exponents.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax._validation import check_number


def check_alpha(alpha: Any) -> None:
    """Raises unless the memory rate is in (0, 1]."""
    check_number("alpha", alpha, lambda a: 0 < a <= 1, "in (0, 1]")


def _floating(x: ArrayLike) -> jax.Array:
    """`x` as an array of float32 or wider; a Python number takes JAX's default float."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _one_minus_power(alpha: jax.Array, steps: jax.Array) -> jax.Array:
    """1 - (1 - alpha)^(2 steps), without the cancellation (2e-5 at alpha = 0.001 in float32)."""
    return jnp.where(steps > 0, -jnp.expm1(2 * steps * jnp.log1p(-alpha)), 0)


def path_mean(alpha: ArrayLike, t: ArrayLike) -> jax.Array:
    """Mean of the squared norm of the random walk's path after `t` steps (Eq. 4).

    Args:
      alpha: memory rate of the path, in (0, 1].
      t: number of steps, at least 0; `jnp.inf` gives the limit `alpha / (2 - alpha)`. Broadcasts
        against `alpha`.

    Returns:
      The mean, in [0, 1], of the broadcast shape, in the floating-point dtype of `alpha`.

    Raises:
      ValueError: if `alpha` or `t` is out of range.

    Example:
      >>> float(path_mean(0.5, 1))
      0.25

    Source: arXiv 1709.01427, Eq. 4.
    """
    if jnp.ndim(alpha) == 0:
        check_alpha(alpha)
    if jnp.ndim(t) == 0:
        check_number("t", t, lambda steps: steps >= 0, "at least 0")
    alpha = _floating(alpha)
    return alpha / (2 - alpha) * _one_minus_power(alpha, jnp.asarray(t, alpha.dtype))


def path_std(alpha: ArrayLike, d: ArrayLike, t: ArrayLike | None = None) -> jax.Array:
    """Standard deviation of the squared norm of the random walk's path (Eq. 5, corrected).

    Args:
      alpha: memory rate of the path, in (0, 1].
      d: dimension, at least 1 (a complex coordinate counts as two).
      t: number of steps, at least 0; None gives the limit of many steps. The three broadcast.

    Returns:
      The standard deviation, of the broadcast shape, in the floating-point dtype of `alpha`.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> round(float(path_std(0.01, 1) / 0.01), 3)  # the authors' code uses alpha / sqrt(d)
      0.707

    Source: arXiv 1709.01427, Eq. 5, with the factor 4 for 2 and the exponents doubled.
    """
    if jnp.ndim(alpha) == 0:
        check_alpha(alpha)
    if jnp.ndim(d) == 0:
        check_number("d", d, lambda dimension: dimension >= 1, "at least 1")
    if t is not None and jnp.ndim(t) == 0:
        check_number("t", t, lambda steps: steps >= 0, "at least 0")
    alpha = _floating(alpha)
    steps = jnp.asarray(jnp.inf if t is None else t, alpha.dtype)
    q = (1 - alpha) ** 2
    grown = _one_minus_power(alpha, steps) * _one_minus_power(alpha, steps - 1)
    return 2 * alpha / (2 - alpha) * jnp.sqrt(q / (1 + q) * grown / jnp.asarray(d, alpha.dtype))
