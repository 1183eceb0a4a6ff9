"""ALERA: a learning rate per group of leaves that follows the agreement of successive gradients.

Source: Schoenauer-Sebag, Schoenauer, Sebag, "Stochastic Gradient Descent: Going As Fast As
Possible But Not Faster", arXiv 1709.01427, Section 3 and Algorithm 1.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from salera_optax._random_walk import STDS, Std, agreement, check_alpha
from salera_optax._validation import (
    check_axis_name,
    check_choice,
    check_number,
    check_params,
    check_same_tree,
    check_state,
    check_transformation,
    leaf_name,
)

Groups = Any  # None, a prefix pytree of labels, or a function from parameters to one.
AxisName = str | tuple[str, ...] | None  # of the devices in shard_map or pmap


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


def by_module(params: Any) -> Any:
    """Labels every leaf with its module: kernel and bias of a Flax layer share one rate.

    Args:
      params: a pytree of parameters, or any pytree of the same structure.

    Returns:
      A pytree of strings, for every leaf its path less the last key, or `"root"` for a leaf of the
      outermost module. It is what `groups` expects.

    Example:
      >>> by_module({"Dense_0": {"bias": 0.0, "kernel": 1.0}, "scale": 1.0})
      {'Dense_0': {'bias': 'Dense_0', 'kernel': 'Dense_0'}, 'scale': 'root'}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: leaf_name(path, depth=-1) or "root", params
    )


def statistics_dtype(params: Any) -> Any:
    """The real dtype of scalars about `params`: float32, or float64 where a leaf is that wide."""
    return np.finfo(jnp.result_type(jnp.float32, *jax.tree.leaves(params))).dtype


def zeros_like(x: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Zeros of the shape and, also under `jit`, of the sharding of `x`, which may be abstract."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jnp.zeros(x.shape, dtype)
    # Plain zeros do not depend on `x`, and what does not, the partitioner may lay out as it likes.
    return jnp.where(False, jnp.real(x), 0).astype(dtype)


@jax.jit
def _squared_norm(leaf: ArrayLike) -> jax.Array:
    """|.|^2 of one leaf, in one pass.

    On CPUs XLA would sum a gradient whose dimensions are no multiples of 32 by windows, in six
    times the time, without the `jit`; and write the squares to memory, when an optimizer such as
    Adam needs them as well, without the barrier.
    """
    return jnp.sum(squared_modulus(jax.lax.optimization_barrier(leaf)))


def squared_norms(tree: Any, axis_name: AxisName = None, like: Any = None) -> list[jax.Array]:
    """|.|^2 summed over every leaf, in float32 or wider, and over the devices of `axis_name`.

    There a leaf counts once as a whole: the parts of one that is sharded are added, the copies of
    one that is replicated are averaged; `like`, of the same structure, tells which it is.
    """
    norms = [_squared_norm(leaf) for leaf in jax.tree.leaves(tree)]
    if axis_name is None or not norms:
        return norms
    devices = jax.lax.axis_size(axis_name)
    parts = [
        norm * shards(leaf, axis_name) / devices
        for norm, leaf in zip(norms, jax.tree.leaves(like), strict=True)
    ]
    return list(summed(jnp.stack(parts), axis_name))


def as_names(axis_name: AxisName) -> tuple[str, ...]:
    """The names, none for None."""
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def varying(x: Any) -> frozenset[str]:
    """The axes of `shard_map` over which `x` differs between the devices, by its type."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def shards(leaf: ArrayLike, axis_name: AxisName) -> int:
    """In how many parts the devices of `axis_name` hold `leaf`."""
    return math.prod(
        jax.lax.axis_size(name) for name in as_names(axis_name) if name in varying(leaf)
    )


def summed(x: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum of `x` over the devices of `axis_name`, if there is one."""
    if axis_name is None:
        return x
    missing = tuple(name for name in as_names(axis_name) if name not in varying(x))
    if 0 < len(missing) < len(as_names(axis_name)):  # psum takes all or none
        x = jax.lax.pcast(x, missing, to="varying")
    return jnp.asarray(jax.lax.psum(x, axis_name))


def squared_modulus(x: ArrayLike) -> jax.Array:
    """|x|^2, elementwise, real, in float32 or wider."""
    x = jnp.asarray(x, jnp.result_type(x, jnp.float32))
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def real_size(leaf: ArrayLike, axis_name: AxisName) -> int:
    """Number of real coordinates on all devices of `axis_name`: a complex one counts as two."""
    local = jnp.size(leaf) * (2 if jnp.iscomplexobj(leaf) else 1)
    return local if axis_name is None else local * shards(leaf, axis_name)


def bounded(log_rate: jax.Array) -> jax.Array:
    """Keeps the exponential of `log_rate` well inside its dtype (1e-28 to 1e28 in float32)."""
    limit = 0.75 * math.log(float(np.finfo(log_rate.dtype).max))
    return jnp.clip(log_rate, -limit, limit)


def scaled(update: ArrayLike, factor: jax.Array, like: ArrayLike) -> jax.Array:
    """`factor * update`, computed in float32 or wider and returned in the dtype of `like`."""
    wide = jnp.asarray(update, jnp.result_type(update, jnp.float32))
    return jnp.asarray(factor * wide, jnp.result_type(like))


def incremented(count: jax.Array) -> jax.Array:
    """The count plus one, which stays at the largest integer."""
    return jnp.asarray(optax.safe_increment(count))


def leaf_labels(groups: Groups, tree: Any) -> list[str]:
    """The label of every leaf of `tree`, in order."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if groups is None:
        names = [leaf_name(path) for path in paths]
        repeated = Counter(names)  # {"a/b": x, "a": {"b": y}}: fall back to the unambiguous form.
        return [
            name if repeated[name] == 1 else jax.tree_util.keystr(path)
            for name, path in zip(names, paths, strict=True)
        ]
    if not paths:
        return []
    labels = groups(tree) if callable(groups) else groups
    try:
        full = jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part), labels, tree)
        leaves = jax.tree.leaves(full)
        covered = len(leaves) == len(paths)
    except ValueError:
        covered = False
    if not covered:
        raise ValueError(
            "groups must give a label to every leaf of params, as a pytree of strings that is a "
            f"prefix of {jax.tree.structure(tree)}, got {labels!r}."
        )
    for label in leaves:
        if not isinstance(label, str):
            raise TypeError(f"groups must consist of strings, one label a leaf, got {label!r}.")
    return leaves


def _members(groups: Groups, tree: Any) -> dict[str, list[int]]:
    """For every group, in alphabetical order, the indices of its leaves."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(leaf_labels(groups, tree)):
        members.setdefault(label, []).append(index)
    return dict(sorted(members.items()))


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
        names = _members(groups, params)
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
        members = _members(groups, state.path)
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
