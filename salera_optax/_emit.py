"""What a guard returns, all of it finite: the next parameters, or what is to be added to them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from salera_optax._arrays import folded, like, scaled, select, wide_dtype
from salera_optax._devices import AxisName, any_of


def first(one: Any, *others: Any) -> Any:
    del others
    return one


def second(one: Any, other: Any) -> Any:
    del one
    return other


def _keep_finite(updates: Any, params: Any) -> Any:
    """Zero wherever the updated parameter would not be finite."""
    return jax.tree.map(
        lambda u, p: jnp.where(jnp.isfinite(p + u), u, jnp.zeros_like(u)), updates, params
    )


def _restore_finite(params: Any, snapshot: Any) -> Any:
    """The saved number wherever a parameter is not finite."""
    return jax.tree.map(lambda p, s: jnp.where(jnp.isfinite(p), p, s), params, snapshot)


def _placed(params: Any, snapshot: Any, back: jax.Array) -> Any:
    # XLA copies every buffer unless the branch that returns its operands untouched is branch 0, the
    # false one; as in all conditionals of the guard.
    return jax.lax.cond(back, second, first, params, snapshot)


def _left(params: Any, snapshot: Any, back: jax.Array) -> Any:
    del snapshot, back
    return params


def _room(gradients: Any, params: Any) -> Any:
    """The gradients, for XLA to write the updates over them; `mended` puts what is to be added.

    Memory that a step takes anew costs more than what is written there: a page fault for each 4
    KiB. A conditional writes over an operand that one of its branches returns.
    """
    return jax.tree.map(
        lambda g, p: g if jax.typeof(g) == jax.typeof(p) else jnp.zeros_like(p), gradients, params
    )


def _difference(params: Any, snapshot: Any, back: jax.Array) -> Any:
    if snapshot is None:
        return jax.tree.map(jnp.zeros_like, params)
    away = jax.tree.map(lambda p, s: jnp.where(back, s - p, jnp.zeros_like(p)), params, snapshot)
    return _keep_finite(away, params)


def _mended_updates(updates: Any, params: Any, stepped: jax.Array, retreat: Any) -> Any:
    return select(stepped, _keep_finite(updates, params), _difference(params, *retreat))


def _mended_params(params: Any, snapshot: Any, stepped: jax.Array, retreat: Any) -> Any:
    del stepped, retreat
    return _restore_finite(params, snapshot)


class Emit(NamedTuple):
    """What a call returns, and how it is mended where it is not what it should be.

    Attributes:
      start: what a step starts from, and a call without one leaves: of the parameters, the
        snapshot, and whether to go back to it.
      moved: what a step returns: of the parameters and the moves.
      stayed: what a call without a step returns: of the gradients and what `start` gave.
      mends_stays: whether that always has to be mended.
      beside: what the next two need: of the parameters and the snapshot.
      landed: the parameters that come of it: of a leaf and the one beside it.
      mended: of all leaves and those beside them, whether there was a step, and the snapshot with
        whether to go back to it.
    """

    start: Callable[[Any, Any, jax.Array], Any]
    moved: Callable[[Any, Any], Any]
    stayed: Callable[[Any, Any], Any]
    mends_stays: bool
    beside: Callable[[Any, Any], Any]
    landed: Callable[[jax.Array, jax.Array], jax.Array]
    mended: Callable[[Any, Any, jax.Array, Any], Any]


# What is to be added to the parameters. They are needed afterwards, so that to start from the
# snapshot would be to copy them; and a call that goes back takes no step.
ADDED = Emit(_left, second, _room, True, first, jnp.add, _mended_updates)
# The next parameters. XLA writes them over the last ones, so that the snapshot has to mend them.
WRITTEN = Emit(_placed, optax.apply_updates, second, False, second, first, _mended_params)


_Branch = Callable[..., tuple[Any, Any]]


# The branches of the conditionals are made once, and take all that they need as operands: outside
# `jit` JAX compiles a conditional anew for every function that it has not seen.
def branches(
    inner: optax.GradientTransformationExtraArgs, emit: Emit, fixed: dict[str, Any]
) -> tuple[_Branch, _Branch]:
    """The step and the stay; `fixed` are arguments of `inner` that are no arrays.

    Both take the gradients, the inner state, what `Emit.start` gave, the scale of the steps, and
    the arguments of `inner` that are arrays.
    """

    def go(updates: Any, inner_state: Any, start: Any, scale: Any, given: Any) -> tuple[Any, Any]:
        moves, after = inner.update(updates, inner_state, start, **given, **fixed)
        moves = jax.tree.map(lambda u, p: scaled(u, scale, p), moves, start)
        return emit.moved(start, moves), jax.tree.map(like, after, inner_state)

    def stay(updates: Any, inner_state: Any, start: Any, scale: Any, given: Any) -> tuple[Any, Any]:
        del scale, given
        return emit.stayed(updates, start), inner_state

    return go, stay


def is_array(argument: Any) -> bool:
    return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(argument))


@functools.partial(jax.jit, static_argnums=0)
def _sum(landed: Callable[..., jax.Array], leaf: jax.Array, beside: jax.Array) -> jax.Array:
    """Finite where all numbers are: on CPUs a third of the time of a look at each."""
    number = landed(*folded(leaf, beside))
    return jnp.sum(number, dtype=wide_dtype(number))


def mended(
    emit: Emit, emitted: Any, beside: Any, stepped: jax.Array, retreat: Any, axis_name: AxisName
) -> tuple[Any, jax.Array]:
    """What is emitted, all of it finite, and whether a step had made it not finite.

    To be called behind the conditional, where all of it lies in memory: inside XLA would write down
    every move, or compute it twice, for a second use.
    """
    pairs = zip(jax.tree.leaves(emitted), jax.tree.leaves(beside), strict=True)
    sums = [_sum(emit.landed, *pair) for pair in pairs]
    broken = any_of(lambda x: ~jnp.isfinite(x), sums, axis_name) & stepped
    wanted = broken | ~stepped if emit.mends_stays else broken
    operands = (emitted, beside, stepped, retreat)
    return jax.lax.cond(wanted, emit.mended, first, *operands), broken
