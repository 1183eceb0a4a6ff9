"""The laws of the rate: from the path to the change of a rate's logarithm.

A law is a function, as a schedule is in Optax: `law(squared_norm, alpha, step, d)`. It compares the
squared norm of the path with that of the random walk of `_random_walk`, whose mean and deviation
are `path_mean(alpha, step)` and `path_std(alpha, d, step)`.

Source: arXiv 1709.01427, Eq. 6, is `score`; `ratio` is this library's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from salera_optax._random_walk import path_mean, path_std
from salera_optax._validation import check_choice, check_number

Law = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
Std = Literal["exact", "authors"]
STDS: tuple[str, ...] = get_args(Std)

_LEAST, _LARGEST = -3.0, 6.0  # what one step makes of log(||path||^2 / mean), at the most


@dataclasses.dataclass(frozen=True)
class EveryStep:
    """A law that also moves the rate of a group in a step that brings it no gradient.

    Attributes:
      law: the law.
    """

    law: Law

    def __call__(
        self, squared_norm: jax.Array, alpha: jax.Array, step: jax.Array, d: jax.Array
    ) -> jax.Array:
        return self.law(squared_norm, alpha, step, d)


def _check_gain(gain: Any) -> None:
    check_number("gain", gain, lambda g: 0 <= g < math.inf, "finite and at least 0")


def ratio(gain: ArrayLike = 0.01, margin: ArrayLike = 1.0) -> Law:
    """The law of the logarithm: as quick down as up, and the same for leaves of every size.

    The default of every optimizer here. With mean and std those of the random walk
    (`path_mean(alpha, step)`, `path_std(alpha, d, step)`), and s = std/mean, about sqrt(2/d)::

        y = log(||path||^2 / mean) + s^2/2 + s^4/12             clipped to [-3, 6]
        x = min(y, 0) + max(y - margin, 0)
        change of log(rate) = gain x |x| / (|x| + s)

    The terms in s are the mean of -log(||path||^2 / mean) under the random walk, so that y is about
    0 there; s is its deviation. From 0 to the margin the rate stays. Beyond s the change is gain x;
    within, where it may be chance, it is a fraction ``|x|/s`` of that. A path of length zero
    changes nothing.

    Args:
      gain: change of log(rate) per unit of x and step, finite and at least 0. While all gradients
        agree y tends to log((2 - alpha)/alpha), 5.3 at alpha 0.01: the defaults double the rate in
        16 steps.
      margin: how much agreement beyond chance leaves a rate where it is, finite and at least 0, in
        units of y. Networks that can fit each example, trained in small minibatches, agree with
        themselves at every rate, by about 1; without a margin their rates rise for ever.

    Returns:
      A law for `scale_by_alera`: a function of four arrays, the squared norm of the path, the
      memory rate, the number of steps, and the dimension, which broadcast, that returns the change
      of log(rate), of their shape and in the dtype of the first. Of dimension 0, none.

    Raises:
      ValueError, TypeError: if an argument is no number, or out of range.

    Example:
      >>> law = ratio(0.01)
      >>> mean = path_mean(0.1, 50)
      >>> [round(float(law(k * mean, 0.1, 50, 1000)), 3) for k in (0.5, 1.0, 2.0, 5.0)]
      [-0.007, 0.0, 0.0, 0.006]

    Source: none; it takes the place of Eq. 6 of arXiv 1709.01427, for which there is `score`.
    """
    _check_gain(gain)
    check_number("margin", margin, lambda m: 0 <= m < math.inf, "finite and at least 0")

    def law(squared_norm: jax.Array, alpha: jax.Array, step: jax.Array, d: jax.Array) -> jax.Array:
        known = (jnp.asarray(d) > 0) & (jnp.asarray(squared_norm) > 0)
        mean = path_mean(alpha, step)
        s = path_std(alpha, jnp.maximum(d, 1), step) / mean
        # The mean of the logarithm of a Gamma variable of mean 1 and deviation s is
        # digamma(1/s^2) - log(1/s^2) = -s^2/2 - s^4/12 + ..., within 5 % at d = 1.
        y = jnp.log(jnp.where(known, squared_norm, mean) / mean) + s**2 / 2 + s**4 / 12
        y = jnp.clip(y, _LEAST, _LARGEST)
        x = jnp.minimum(y, 0) + jnp.maximum(y - margin, 0)
        size = jnp.abs(x)
        change = gain * x * size / jnp.where(size > 0, size + s, 1)
        return jnp.where(known, change, 0).astype(jnp.result_type(squared_norm))

    return law


def score(gain: ArrayLike, std: Std = "exact") -> Law:
    """The law of the paper: the standard score of the path's squared norm.

    With mean and std those of the random walk (`path_mean(alpha, step)`, and the limit of many
    steps `path_std(alpha, d)`)::

        change of log(rate) = gain (||path||^2 - mean) / std

    Take it to repeat the paper. Its speed depends on the size of the leaf and on its direction: it
    rises by up to gain sqrt(2 d)/alpha in a step, and falls by up to gain sqrt(d/2), so a large
    layer doubles its rate within ten steps at the paper's gain, and takes a thousand to halve it.
    As in the authors' code it moves the rate in every step, also where a group has no gradient.

    Args:
      gain: change of log(rate) per standard deviation and step, finite and at least 0. The paper's
        robust setting is C = 3e-6, or 3e-8 for one rate per coordinate; with `std="exact"` 2.12e-6
        and 2.11e-8 are the same.
      std: "exact" for `path_std`, "authors" for `alpha / sqrt(d)` of the published code.

    Returns:
      A law for `scale_by_alera`; see `ratio`. At alpha 1, where the path is the last direction and
      says nothing, no change with "exact".

    Raises:
      ValueError, TypeError: if `gain` is no number or out of range, or `std` unknown.

    Example:
      >>> law = score(0.01)
      >>> mean = path_mean(0.01, 1000)
      >>> float(law(mean, 0.01, 1000, 50)), round(float(law(mean + 0.001, 0.01, 1000, 50)), 3)
      (0.0, 0.01)

    Source: arXiv 1709.01427, Eq. 6. Deviation: Eq. 5 is corrected.
    """
    _check_gain(gain)
    check_choice("std", std, STDS)

    def law(squared_norm: jax.Array, alpha: jax.Array, step: jax.Array, d: jax.Array) -> jax.Array:
        dimension = jnp.maximum(d, 1)
        deviation = path_std(alpha, dimension) if std == "exact" else alpha / jnp.sqrt(dimension)
        defined = (deviation > 0) & (jnp.asarray(d) > 0)
        excess = squared_norm - path_mean(alpha, step)
        change = gain * excess / jnp.where(defined, deviation, 1)
        return jnp.where(defined, change, 0).astype(jnp.result_type(squared_norm))

    return EveryStep(law)


def check_law(law: Any) -> None:
    """Raises unless `law` is a function."""
    if not callable(law):
        raise TypeError(
            f"law must be a function (squared_norm, alpha, step, d) -> change of log(rate), such "
            f"as salera_optax.ratio(), got {law!r}."
        )


def changed(
    law: Law,
    log_rate: jax.Array,
    squared_norm: jax.Array,
    alpha: jax.Array,
    step: jax.Array,
    d: jax.Array,
    has_gradient: jax.Array,
) -> jax.Array:
    """The logarithm of a rate after a step under a law, kept finite."""
    change = law(squared_norm, alpha, step, d)
    if jnp.shape(change) != jnp.shape(squared_norm):
        raise ValueError(
            f"law must return the change of log(rate) in the shape of the squared norm, "
            f"{jnp.shape(squared_norm)}, got {jnp.shape(change)}."
        )
    if not isinstance(law, EveryStep):
        change = jnp.where(has_gradient, change, 0)
    return bounded(log_rate + jnp.asarray(change, log_rate.dtype))


def bounded(log_rate: jax.Array) -> jax.Array:
    """Keeps the exponential of `log_rate` well inside its dtype (1e-28 to 1e28 in float32)."""
    limit = 0.75 * math.log(float(np.finfo(log_rate.dtype).max))
    return jnp.clip(log_rate, -limit, limit)
