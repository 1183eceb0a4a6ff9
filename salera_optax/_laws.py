"""The laws of the rate: from the path to the change of a rate's logarithm.

A law is a function, as a schedule is in Optax: `law(squared_norm, alpha, step, d)`. It compares the
squared norm of the path with that of the random walk of `_random_walk`, whose mean and deviation
are `path_mean(alpha, step)` and `path_std(alpha, d, step)`.

Source: arXiv 1709.01427, Eq. 6, is `score`; `ratio` is this library's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from salera_optax._random_walk import path_mean, path_std
from salera_optax._validation import check_choice, check_number

Law = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
Std = Literal["exact", "authors"]
STDS: tuple[str, ...] = get_args(Std)

# What one step makes of log(||path||^2 / mean), at the most: with more a rate runs ahead of its
# path, which remembers for long.
_FURTHEST = 2.0
# How much faster a rate moves while its path is young: what a step of it says is news as long as
# the path is short.
_EAGER = 3.0
_NORM_RATE = 0.03  # of the running mean square of a gradient's norm
_RISE = 100.0  # the square of one norm counts for no more than so many times that mean


@dataclasses.dataclass(frozen=True)
class Published:
    """A law of the paper's path, in which every gradient has the length one, whatever its norm.

    It also moves the rate of a group in a step that brings it no gradient.

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


def ratio(gain: ArrayLike = 0.01, rest: ArrayLike = 0.0) -> Law:
    """The law of the logarithm: as quick down as up, and the same for leaves of every size.

    The default of every optimizer here but `spalera`. With mean and std those of the random walk
    (`path_mean(alpha, step)`, `path_std(alpha, d, step)`), and s = std/mean, about sqrt(2/d)::

        x = log(||path||^2 / mean) + s^2/2 + s^4/12 - rest      clipped to [-2, 2]
        change of log(rate) = gain x |x| / (|x| + s) * 1/(alpha step)    the last within 1 and 3

    The terms in s are the mean of -log(||path||^2 / mean) under the random walk, so that x + rest
    is about 0 there; s is its deviation. Beyond s the change is gain x; within, where it may be
    chance, it is a fraction ``|x|/s`` of that. A path of length zero changes nothing. While the
    path is young the change is up to three times as large, for a rate that starts too low has far
    to climb.

    Args:
      gain: change of log(rate) per unit of x and step, finite and at least 0. At the default a rate
        doubles or halves in 35 steps at the fastest.
      rest: the log(||path||^2 / mean) at which a rate rests, finite. At 0 the path is as long as a
        random walk's. At -0.1, which `salera_adamw` takes, gradients contradict one another so far
        that its square is e^-0.1 = 0.9 times that.

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
      [-0.007, 0.0, 0.007, 0.016]

    Source: none; it takes the place of Eq. 6 of arXiv 1709.01427, for which there is `score`.
    """
    _check_gain(gain)
    check_number("rest", rest, math.isfinite, "finite")

    def law(squared_norm: jax.Array, alpha: jax.Array, step: jax.Array, d: jax.Array) -> jax.Array:
        known = (jnp.asarray(d) > 0) & (jnp.asarray(squared_norm) > 0)
        mean = path_mean(alpha, step)
        s = path_std(alpha, jnp.maximum(d, 1), step) / mean
        # The mean of the logarithm of a Gamma variable of mean 1 and deviation s is
        # digamma(1/s^2) - log(1/s^2) = -s^2/2 - s^4/12 + ..., within 5 % at d = 1.
        x = jnp.log(jnp.where(known, squared_norm, mean) / mean) + s**2 / 2 + s**4 / 12
        x = jnp.clip(x - rest, -_FURTHEST, _FURTHEST)
        size = jnp.abs(x)
        eager = jnp.clip(1 / (alpha * jnp.maximum(step, 1)), 1, _EAGER)
        change = gain * eager * x * size / jnp.where(size > 0, size + s, 1)
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

    return Published(law)


def check_law(law: Any) -> None:
    """Raises unless `law` is a function."""
    if not callable(law):
        raise TypeError(
            f"law must be a function (squared_norm, alpha, step, d) -> change of log(rate), such "
            f"as salera_optax.ratio(), got {law!r}."
        )


def _remembered(lengths: jax.Array, step: jax.Array) -> jax.Array:
    """The lengths before this step; where everything starts anew, none."""
    return jnp.where(step == 1, 0, lengths)


def entered(
    published: bool,
    norm: jax.Array,
    lengths: jax.Array,
    alpha: jax.Array,
    step: jax.Array,
    eps: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """How the gradient of a group enters its path: in proportion to its norm, up to the usual one.

    With the paper's length of one for every gradient the many small ones of a network that has
    learned its examples, which all ask for larger weights, outvote the few that it has not, in
    small minibatches: they agree at every rate.

    Args:
      published: whether the law is a `Published` one: every gradient enters with the length one.
      norm: of the gradient.
      lengths: of the group, of the shape (2,), as in `ScaleByAleraState`.
      alpha: memory rate of the path.
      step: number of this step, from 1, where everything starts anew.
      eps: the largest norm that is no gradient.

    Returns:
      What the gradient is multiplied by, and the next lengths. The second of them is the sum of the
      squared weights of all steps so far, the mean of ``||path||^2`` under chance: Eq. 4, where all
      steps have the same length.
    """
    usual, chance = _remembered(lengths, step)
    # An outlier is no measure of the others: it would make them small for long.
    square = jnp.where(usual > 0, jnp.minimum(jnp.square(norm), _RISE * usual), jnp.square(norm))
    usual += jnp.maximum(_NORM_RATE, 1 / step.astype(norm.dtype)) * (square - usual)
    length = norm if published else jnp.maximum(norm, jnp.sqrt(usual))
    weight = alpha / jnp.where(norm > eps, length, jnp.inf)
    chance = (1 - alpha) ** 2 * chance + jnp.square(weight * norm)
    return weight, jnp.stack([usual, chance])


def clipped(
    clip: ArrayLike,
    norm: jax.Array,
    before: jax.Array,
    after: jax.Array,
    step: jax.Array,
    eps: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """What becomes of outliers, and of the rates: these are tuned to gradients of the usual norm.

    Args:
      clip: times the usual norm, the longest a gradient may be.
      norm: of the gradients, of the shape (groups,).
      before: lengths of the groups before this step, as in `ScaleByAleraState`.
      after: the same after it.
      step: number of this step, from 1.
      eps: the largest norm that is no gradient.

    Returns:
      What the gradients are multiplied by, at most 1, and what is added to the logarithms of the
      rates, at most 0: where an outlier has raised the usual norm, the rate falls by as much. So
      where gradients have become longer for good, steps become at most `clip` times as long.
    """
    usual = _remembered(before, step)[:, 0]
    longest = clip * jnp.sqrt(usual)
    outlier = (longest > 0) & (norm > jnp.maximum(longest, eps))
    share = jnp.where(outlier, longest, 1) / jnp.where(outlier, norm, 1)
    raised = jnp.where(outlier, after[:, 0], 1) / jnp.where(outlier, usual, 1)
    return share, -0.5 * jnp.log(jnp.maximum(raised, 1))


class Limits(NamedTuple):
    """Within which a step is to be long, scalars.

    Attributes:
      lowest: logarithm of the least rate multiplier.
      highest: of the largest.
      of_gradient: whether these are the multipliers of a gradient whose root mean square is 1, and
        not of a direction that has the same length whatever the gradient, as Adam's.
    """

    lowest: jax.Array
    highest: jax.Array
    of_gradient: jax.Array


def changed(
    law: Law,
    log_rate: jax.Array,
    squared_norm: jax.Array,
    lengths: jax.Array,
    d: jax.Array,
    has_gradient: jax.Array,
    alpha: jax.Array,
    step: jax.Array,
    limits: Limits | None = None,
) -> jax.Array:
    """The logarithm of a rate after a step under a law, kept finite, and within limits if given.

    But under `Published` laws the squared norm is first put in the unit in which chance gives it
    the mean of Eq. 4.
    """
    usual, chance = lengths
    if not isinstance(law, Published):
        unit = path_mean(alpha, step) / jnp.where(chance > 0, chance, 1)
        squared_norm = jnp.where(chance > 0, squared_norm * unit, 0)
    change = law(squared_norm, alpha, step, d)
    if jnp.shape(change) != jnp.shape(squared_norm):
        raise ValueError(
            f"law must return the change of log(rate) in the shape of the squared norm, "
            f"{jnp.shape(squared_norm)}, got {jnp.shape(change)}."
        )
    if not isinstance(law, Published):
        change = jnp.where(has_gradient, change, 0)
    log_rate = bounded(log_rate + jnp.asarray(change, log_rate.dtype))
    return log_rate if limits is None else _within(limits, log_rate, usual, d, has_gradient)


def _within(
    limits: Limits, log_rate: jax.Array, usual: jax.Array, d: jax.Array, has_gradient: jax.Array
) -> jax.Array:
    """The logarithm of a rate within limits, for gradients of that mean square of their norm.

    What is no gradient may be rounding noise, as in a bias in front of a normalization: no rate is
    raised to make steps of it.
    """
    known = ~limits.of_gradient | ((usual > 0) & has_gradient)
    unit = jnp.where(limits.of_gradient & known, usual / jnp.maximum(d, 1), 1)
    low, high = (limit - 0.5 * jnp.log(unit) for limit in (limits.lowest, limits.highest))
    return jnp.where(known, jnp.clip(log_rate, low, high), log_rate)


def bounded(log_rate: jax.Array) -> jax.Array:
    """Keeps the exponential of `log_rate` well inside its dtype (1e-28 to 1e28 in float32)."""
    limit = 0.75 * math.log(float(np.finfo(log_rate.dtype).max))
    return jnp.clip(log_rate, -limit, limit)
