"""ALERA: a learning rate per group of leaves that follows the agreement of successive gradients.

Source: Schoenauer-Sebag, Schoenauer, Sebag, "Stochastic Gradient Descent: Going As Fast As
Possible But Not Faster", arXiv 1709.01427, Section 3 and Algorithm 1.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._arrays import (
    beside,
    incremented,
    real_size,
    scaled,
    squared_norms,
    statistics_dtype,
    wide_dtype,
    zeros_like,
)
from salera_optax._devices import AxisName, as_names, varying
from salera_optax._groups import Grouping, Groups, check_groups, members_of
from salera_optax._laws import (
    Law,
    Limits,
    Published,
    changed,
    check_law,
    clipped,
    entered,
    ratio,
)
from salera_optax._random_walk import check_alpha
from salera_optax._scalars import read_from
from salera_optax._validation import (
    check_axes,
    check_axis_name,
    check_number,
    check_params,
    check_same_tree,
    check_state,
    check_transformation,
)


def _names(groups: Any) -> list[str]:
    """Those of a state, in the order of its vectors."""
    return sorted(groups) if isinstance(groups, Mapping) else []


class ScaleByAleraState(NamedTuple):
    """State of `scale_by_alera`.

    Attributes:
      step: int32 scalar, the steps taken, alarms excluded.
      path: exponential average of normalized gradients, like the parameters, float32 or wider.
      groups: a dictionary of the groups, in alphabetical order. It has names and no arrays (but
        a scalar where there are no groups).
      log_rates: of the shape (groups,), the logarithms of their rate multipliers, float32 or wider;
        by name they are the property `log_rate`.
      lengths: of the shape (groups, 2) and that dtype: the running mean square of a group's
        gradient norm, and what chance gives the squared norm of its path on average.
      base_state: state of the base transformation.
    """

    step: jax.Array
    path: Any
    groups: Any
    log_rates: jax.Array
    lengths: jax.Array
    base_state: Any

    @property
    def log_rate(self) -> dict[str, jax.Array]:
        """The logarithm of its rate multiplier, a scalar, for every group by its name."""
        places = list(enumerate(_names(self.groups)))
        rates: dict[str, jax.Array] = read_from(
            self.log_rates, lambda rates: {name: rates[..., place] for place, name in places}
        )
        return rates


@functools.partial(jax.jit, static_argnums=0)  # traced once for all optimizers
def _enter(published: bool, norms: jax.Array, lengths: jax.Array, *shared: Any) -> Any:
    """`entered`, for the groups of a vector."""
    per_group = functools.partial(entered, published)
    return jax.vmap(per_group, (0, 0, None, None, None))(norms, lengths, *shared)


def _adapting(law: Law) -> Callable[..., jax.Array]:
    """`changed`, for the groups of a vector."""
    shared = (None, None, None)
    return jax.jit(jax.vmap(functools.partial(changed, law), (0, 0, 0, 0, 0, *shared)))


_ADAPT = _adapting(ratio())


def _lengthened(weights: jax.Array, norms: jax.Array, squares: jax.Array) -> jax.Array:
    """The weights of what has these squared norms, which make it as long as a gradient is."""
    weighted = jnp.where(weights > 0, weights * norms, 0)
    return weighted / jnp.sqrt(jnp.where(squares > 0, squares, 1))


def _check_axes(leaves: list[Any], axis_name: AxisName) -> None:
    """Raises where `shard_map` has some of the leaves sharded over an axis that has no name here.

    The rates of all groups are one vector: those of the others would vary over it too.
    """
    kinds = {varying(leaf).difference(as_names(axis_name)) for leaf in leaves}
    missing = frozenset().union(*kinds) if len(kinds) > 1 else frozenset()
    check_axes("scale_by_alera", "some of the parameters", missing, axis_name)


def check_arguments(alpha: Any, law: Any, base: Any, eps: Any, axis_name: Any) -> None:
    """Checks the arguments that the two ALERA transformations share."""
    check_axis_name(axis_name)
    check_alpha(alpha)
    check_law(law)
    check_number("eps", eps, lambda e: 0 <= e < math.inf, "finite and at least 0")
    if base is not None:
        check_transformation("base", base)


def _check_clip_and_moment(clip: Any, second_moment: Any, law: Law) -> None:
    if clip is not None:
        check_number("clip", clip, lambda c: 0 < c < math.inf, "finite and above 0")
    wrong = isinstance(law, Published) or not callable(second_moment)
    if second_moment is not None and wrong:
        raise ValueError(
            "second_moment must be a function of the state of base, and None with the law of the "
            f"paper, got {second_moment!r}."
        )


def _check_same_groups(members: dict[str, list[int]], groups: Any) -> None:
    expected = _names(groups)
    if list(members) != expected:
        raise ValueError(
            f"scale_by_alera: groups must be those that init saw, {', '.join(expected)}, got "
            f"{', '.join(members)}."
        )


def scale_by_alera(
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    *,
    groups: Groups = None,
    base: optax.GradientTransformation | None = None,
    clip: ArrayLike | None = None,
    second_moment: Callable[[Any], Any] | None = None,
    eps: ArrayLike = 1e-6,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Scales by a rate per group that grows while gradients agree more than chance.

    The part that `alera` and `ag_adam` are made of, for an `optax.chain` of your own; they have the
    mathematics, and the limits of the steps, which are none of this part.
    The rate multiplier starts at 1, and the sign is not flipped: a learning rate goes behind it,
    `optax.chain(scale_by_alera(), optax.scale_by_learning_rate(0.1))`.

    A law sees scalars in the dtype of the statistics, float32 or wider, but for `step`, an int32:
    the squared norm of the group's path, `alpha`, the number of steps taken, at least 1, and the
    dimension of the group. It returns a scalar. Many groups go through it at once, under
    `jax.vmap`: no Python branch on a value, and a callback needs a `vmap_method`. This one knows
    two changes, 1 % up and 1 % down::

        def sign(squared_norm, alpha, step, d):
            mean = salera_optax.path_mean(alpha, step)
            return 0.01 * jnp.sign(squared_norm - mean)

        tx = salera_optax.scale_by_alera(0.01, sign)

    Args:
      alpha: memory rate of the path, in (0, 1].
      law: how a rate follows its path: `ratio()`, which None stands for, `score(...)`, or a
        function of your own, `law(squared_norm, alpha, step, d) -> change of log(rate)`.
      groups: None for a rate per leaf; "all" for one rate; or a pytree of strings, a prefix of the
        parameters; or a function from parameters to such a pytree, such as `by_module`.
      base: transformation of the direction, such as `optax.trace(0.9)`, or None for the gradient
        itself; the path sees the gradient, or what `second_moment` makes of it.
      clip: how many times the usual norm of its group the gradient may have that `base` sees,
        finite and above 0; a longer one is scaled down to that, and lowers the rate. None for no
        limit; see `alera`.
      second_moment: for a base that divides every coordinate by its size, as Adam does: a function
        from its next state to the mean squares of the coordinates, a pytree like the parameters,
        such as `lambda state: state.nu`. Then gradients agree in the units in which steps are
        taken: the path sees g divided by the fourth root, and of the norm of g. None for the
        gradient itself, which the laws of the paper want. (With `optax.inject_hyperparams`, which
        takes functions for schedules, name it in `static_args`.)
      eps: a group whose gradient norm is at most this, finite and at least 0, lets its path decay
        and keeps its rate.
      axis_name: inside `shard_map` or `pmap`, the axes to take the norms over; see `alera`.

    Returns:
      A transformation. Its state, a `ScaleByAleraState`, holds one copy of the parameters, a scalar
      per group, and the state of `base`. The updates have the dtype of the parameters.

    Raises:
      ValueError: for an argument out of range, or labels or gradients that do not fit the
        parameters.
      TypeError: for a base that is no transformation, a law that is no function, or parameters
        that are not floating-point.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = optax.chain(scale_by_alera(0.1), optax.scale(-0.1))
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     updates, state = tx.update(2 * x, state)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(state[0].log_rate[""] > 0)  # five gradients in one direction: the rate went up
      True

    Source: arXiv 1709.01427, Section 3.1, Algorithm 1. Deviation: Eq. 5 is corrected.
    """
    rate_law = ratio() if law is None else law
    check_arguments(alpha, rate_law, base, eps, axis_name)
    check_groups(groups)
    _check_clip_and_moment(clip, second_moment, rate_law)
    inner = optax.with_extra_args_support(optax.identity() if base is None else base)
    published = isinstance(rate_law, Published)
    adapt = _ADAPT if law is None else _adapting(rate_law)

    def init_fn(params: Any) -> ScaleByAleraState:
        check_params("scale_by_alera", params)
        dtype = statistics_dtype(params)
        names = members_of(groups, params)
        return ScaleByAleraState(
            step=jnp.zeros((), jnp.int32),
            path=jax.tree.map(lambda p: zeros_like(p, wide_dtype(p)), params),
            # Without leaves a scalar stands in, so that optax.tree.map_params, which calls init
            # with an opaque leafless tree, finds a leaf where the state has its groups.
            groups={name: {} for name in names} or jnp.zeros((), dtype),
            log_rates=jnp.zeros(len(names), dtype),
            lengths=jnp.zeros((len(names), 2), dtype),
            base_state=inner.init(params),
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        rate_limits: Limits | None = None,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByAleraState]:
        check_state("scale_by_alera", state, ScaleByAleraState)
        check_same_tree("scale_by_alera", "updates", updates, state.path)
        step = incremented(state.step)
        members = members_of(groups, state.path)
        _check_same_groups(members, state.groups)
        if not members:
            direction, base_state = inner.update(updates, state.base_state, params, **extra_args)
            return direction, state._replace(step=step, base_state=base_state)

        dtype = statistics_dtype(state.path)
        memory = jnp.asarray(alpha, dtype)
        leaves, treedef = jax.tree.flatten(state.path)
        _check_axes(leaves, axis_name)
        grouping = Grouping(members, dtype)
        norms = jnp.sqrt(grouping.sums(squared_norms(updates, axis_name, leaves)))
        weights, lengths = _enter(published, norms, state.lengths, memory, step, eps)
        old_log_rates, gradient = state.log_rates, updates
        if clip is not None:
            shares, less = clipped(clip, norms, state.lengths, lengths, step, eps)
            gradient = jax.tree.unflatten(treedef, grouping.scaled(updates, shares, updates))
            old_log_rates = old_log_rates + less
        direction, base_state = inner.update(gradient, state.base_state, params, **extra_args)
        seen = updates
        if second_moment is not None:
            moments = second_moment(base_state)
            check_same_tree("scale_by_alera", "second_moment", moments, state.path)
            squares = grouping.sums(squared_norms(updates, axis_name, leaves, moments))
            weights = _lengthened(weights, norms, squares)
            seen = jax.tree.map(beside, updates, moments)
        news = grouping.scaled(seen, weights, leaves)
        path = [scaled(p, 1 - memory, p) + new for p, new in zip(leaves, news, strict=True)]
        log_rates = adapt(
            old_log_rates,
            grouping.sums(squared_norms(path, axis_name, leaves)),
            lengths,
            grouping.sums([real_size(leaf, axis_name) for leaf in leaves]),
            norms > eps,
            memory,
            step,
            rate_limits,
        )
        moves = grouping.scaled(
            direction, jnp.exp(log_rates), direction if params is None else params
        )
        return jax.tree.unflatten(treedef, moves), state._replace(
            step=step,
            path=jax.tree.unflatten(treedef, path),
            log_rates=log_rates,
            lengths=lengths,
            base_state=base_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
