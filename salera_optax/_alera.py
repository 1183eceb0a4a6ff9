"""ALERA: a learning rate per group of leaves that follows the agreement of successive gradients.

Source: Schoenauer-Sebag, Schoenauer, Sebag, "Stochastic Gradient Descent: Going As Fast As
Possible But Not Faster", arXiv 1709.01427, Section 3 and Algorithm 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from salera_optax._arrays import (
    incremented,
    real_size,
    scaled,
    squared_norms,
    statistics_dtype,
    zeros_like,
)
from salera_optax._devices import AxisName
from salera_optax._groups import Groups, members_of
from salera_optax._random_walk import STDS, Std, agreement, check_alpha
from salera_optax._validation import (
    check_axis_name,
    check_choice,
    check_number,
    check_params,
    check_same_tree,
    check_state,
    check_transformation,
)


class ScaleByAleraState(NamedTuple):
    """State of `scale_by_alera`.

    Attributes:
      step: int32 scalar, the steps taken, alarms excluded.
      path: exponential average of normalized gradients, like the parameters, float32 or wider.
      log_rate: for every group, the logarithm of its rate multiplier, a float32 or wider scalar.
      base_state: state of the base transformation.
      count: int32 scalar, all steps, the argument of a schedule of the gain (None without one).
    """

    step: jax.Array
    path: Any
    log_rate: Any
    base_state: Any
    count: Any = None


def bounded(log_rate: jax.Array) -> jax.Array:
    """Keeps the exponential of `log_rate` well inside its dtype (1e-28 to 1e28 in float32)."""
    limit = 0.75 * math.log(float(np.finfo(log_rate.dtype).max))
    return jnp.clip(log_rate, -limit, limit)


def check_rate_law(alpha: Any, gain: Any, std: Any, base: Any, eps: Any, axis_name: Any) -> None:
    """Checks the arguments that the two ALERA transformations share."""
    check_axis_name(axis_name)
    check_alpha(alpha)
    if not callable(gain):
        check_number("gain", gain, lambda g: 0 <= g < math.inf, "finite and at least 0")
    check_number("eps", eps, lambda e: 0 <= e < math.inf, "finite and at least 0")
    check_choice("std", std, STDS)
    if base is not None:
        check_transformation("base", base)


def gain_at(gain: Any, count: Any, dtype: Any) -> tuple[jax.Array, Any]:
    """The gain of this step, and the count after it."""
    if count is None:
        return jnp.asarray(gain, dtype), None
    return jnp.asarray(gain(count), dtype), incremented(count)


def scale_by_alera(
    alpha: ArrayLike = 0.01,
    gain: optax.ScalarOrSchedule = 2.12e-6,
    *,
    groups: Groups | Callable[[Any], Any] = None,
    std: Std = "exact",
    base: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-6,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Scales by a rate per group that grows while gradients agree more than chance.

    The part that `alera` is made of, for an `optax.chain` of your own; `alera` has the mathematics.
    The rate multiplier starts at 1, and the sign is not flipped: a learning rate goes behind it,
    `optax.chain(scale_by_alera(), optax.scale_by_learning_rate(0.1))`.

    Args:
      alpha: memory rate of the path, in (0, 1].
      gain: step of the logarithm of the rate per standard deviation, finite and at least 0, or an
        Optax schedule of it; see `alera`.
      groups: None for a rate per leaf; or a pytree of strings, a prefix of the parameters (`"all"`
        alone is one rate for everything); or a function from parameters to such a pytree, such as
        `by_module`.
      std: "exact" for `path_std`, "authors" for `alpha / sqrt(d)` of the published code.
      base: transformation of the direction, such as `optax.trace(0.9)`, or None for the gradient
        itself; the path always sees the raw gradient.
      eps: a group whose gradient norm is at most this, finite and at least 0, only lets its path
        decay.
      axis_name: inside `shard_map` or `pmap`, the axes to take the norms over; see `alera`.

    Returns:
      A transformation. Its state, a `ScaleByAleraState`, holds one copy of the parameters, a scalar
      per group, and the state of `base`. The updates have the dtype of the parameters.

    Raises:
      ValueError: for an argument out of range, or labels or gradients that do not fit the
        parameters.
      TypeError: for a base that is no transformation, or parameters that are not floating-point.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = optax.chain(scale_by_alera(0.1, 0.1), optax.scale(-0.1))
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     updates, state = tx.update(2 * x, state)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(state[0].log_rate[""] > 0)  # five gradients in one direction: the rate went up
      True

    Source: arXiv 1709.01427, Section 3.1, Algorithm 1. Deviation: Eq. 5 is corrected.
    """
    check_rate_law(alpha, gain, std, base, eps, axis_name)
    inner = optax.with_extra_args_support(optax.identity() if base is None else base)

    def init_fn(params: Any) -> ScaleByAleraState:
        check_params("scale_by_alera", params)
        dtype = statistics_dtype(params)
        names = members_of(groups, params)
        return ScaleByAleraState(
            step=jnp.zeros((), jnp.int32),
            path=jax.tree.map(lambda p: zeros_like(p, jnp.result_type(p, jnp.float32)), params),
            # Without leaves a single scalar stands in, so that optax.tree.map_params, which calls
            # init with an opaque leafless tree, finds a leaf where the state has its groups.
            log_rate={name: jnp.zeros((), dtype) for name in names} or jnp.zeros((), dtype),
            base_state=inner.init(params),
            count=jnp.zeros((), jnp.int32) if callable(gain) else None,
        )

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByAleraState]:
        check_state("scale_by_alera", state, ScaleByAleraState)
        check_same_tree("scale_by_alera", "updates", updates, state.path)
        step = incremented(state.step)
        direction, base_state = inner.update(updates, state.base_state, params, **extra_args)
        members = members_of(groups, state.path)
        dtype = statistics_dtype(state.path)
        gain_now, count = gain_at(gain, state.count, dtype)
        if not members:
            return direction, state._replace(step=step, base_state=base_state, count=count)

        memory = jnp.asarray(alpha, dtype)
        leaves, treedef = jax.tree.flatten(state.path)
        group_of = {index: name for name, indices in members.items() for index in indices}

        def per_group(of_leaves: list[Any]) -> dict[str, Any]:
            return {name: sum(of_leaves[i] for i in indices) for name, indices in members.items()}

        def weighted(squared: jax.Array) -> jax.Array:
            norm = jnp.sqrt(squared.astype(dtype))
            return jnp.where(norm > eps, memory / jnp.where(norm > eps, norm, 1), 0)

        def adapted(log_rate: jax.Array, squared: jax.Array, size: int) -> jax.Array:
            z = agreement(squared.astype(dtype), memory, step, jnp.array(size, dtype), std)
            return bounded(log_rate + gain_now * z)

        norms = squared_norms(updates, axis_name, state.path)
        weight = {name: weighted(squared) for name, squared in per_group(norms).items()}
        path = [
            scaled(p, 1 - memory, p) + scaled(g, weight[group_of[i]], p)
            for i, (p, g) in enumerate(zip(leaves, jax.tree.leaves(updates), strict=True))
        ]
        squared = per_group(squared_norms(path, axis_name, leaves))
        sizes = per_group([real_size(leaf, axis_name) for leaf in leaves])
        log_rate = {
            name: adapted(state.log_rate[name], squared[name], sizes[name]) for name in members
        }
        moves, like = (
            jax.tree.leaves(direction),
            jax.tree.leaves(direction if params is None else params),
        )
        moves = [
            scaled(u, jnp.exp(log_rate[group_of[i]]), p)
            for i, (u, p) in enumerate(zip(moves, like, strict=True))
        ]
        return jax.tree.unflatten(treedef, moves), ScaleByAleraState(
            step=step,
            path=jax.tree.unflatten(treedef, path),
            log_rate=log_rate,
            base_state=base_state,
            count=count,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
