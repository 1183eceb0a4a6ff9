"""Arrays and trees of them: dtypes, norms, copies."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from salera_optax._devices import AxisName, shards, summed

_finfo: Callable[[Any], Any] = jnp.finfo  # which has no types
_WINDOW = 32  # of XLA's sums on CPUs
_SMALL = 1024  # numbers, up to which one kernel is faster than three
_LEAST = 1e-30  # times the squared norm of a leaf, the least second moment of a coordinate


def wide_dtype(x: Any) -> Any:
    """The dtype of statistics about `x`: float32 or wider, complex where `x` is."""
    if jnp.result_type(x).itemsize == 1:  # JAX promotes no floats of 8 bits
        return np.dtype(np.float32)
    return jnp.result_type(x, jnp.float32)


def statistics_dtype(params: Any) -> Any:
    """The real dtype of scalars about `params`: float32, or float64 where a leaf is that wide."""
    return np.finfo(jnp.result_type(jnp.float32, *map(wide_dtype, jax.tree.leaves(params)))).dtype


def zeros_like(x: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Zeros of the shape and, also under `jit`, of the sharding of `x`, which may be abstract."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return jnp.zeros(x.shape, dtype)
    # Plain zeros do not depend on `x`, and what does not, the partitioner may lay out as it likes.
    return jnp.where(False, jnp.real(x), 0).astype(dtype)


def folded(*leaves: ArrayLike) -> list[jax.Array]:
    """Leaves of one shape that are to be summed together, which may get more dimensions.

    On CPUs XLA sums a small array by windows, in three kernels, where a dimension is above 32.
    Behind the barrier it keeps the shape; and it does not write squares to memory because an
    optimizer such as Adam needs them as well.
    """
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    # Not where the sharding is a part of the type: not every sharded dimension can be split.
    whole = all(part is None for x in arrays for part in jax.typeof(x).sharding.spec)
    if whole and arrays[0].size <= _SMALL:
        shape = [part for length in arrays[0].shape for part in _parts(length)]
        arrays = [x.reshape(shape) for x in arrays]
    return [jnp.asarray(jax.lax.optimization_barrier(x)) for x in arrays]


def _parts(length: int) -> list[int]:
    """Factors up to 32, as far as there are.

    The first is a power of two, as numbers of devices are: the leaf may be sharded.
    """
    if length <= _WINDOW:
        return [length]
    first = math.gcd(length, _WINDOW)
    rest, factors = length // first, []
    while rest > _WINDOW:
        below = [factor for factor in range(2, _WINDOW + 1) if rest % factor == 0]
        if not below:
            break
        factors.append(below[-1])
        rest //= below[-1]
    return [part for part in (first, rest, *factors) if part > 1]


@jax.jit
def _squared_norm(leaf: ArrayLike) -> jax.Array:
    """|.|^2 of one leaf, in one pass.

    On CPUs XLA would sum a gradient whose dimensions are no multiples of 32 by windows, in six
    times the time, without the `jit`.
    """
    (leaf,) = folded(leaf)
    return jnp.sum(squared_modulus(leaf))


@jax.jit
def _squared_norm_beside(leaf: ArrayLike, second_moment: ArrayLike) -> jax.Array:
    """That of `beside`, likewise, with a root less."""
    leaf, moment = folded(leaf, second_moment)
    wide = leaf.astype(wide_dtype(leaf))
    # XLA would write the squares to memory, for this sum and that of `_squared_norm`.
    return jnp.sum(jnp.real(wide * (jnp.conj(wide) * jax.lax.rsqrt(_positive(moment, leaf)))))


def squared_norms(
    tree: Any, axis_name: AxisName = None, like: Any = None, second_moment: Any = None
) -> list[jax.Array]:
    """|.|^2 summed over every leaf, in float32 or wider, and over the devices of `axis_name`.

    There a leaf counts once as a whole: the parts of one that is sharded are added, the copies of
    one that is replicated are averaged; `like`, of the same structure, tells which it is. With a
    second moment, of the same structure as well, those of `beside`.
    """
    if second_moment is None:
        norms = [_squared_norm(leaf) for leaf in jax.tree.leaves(tree)]
    else:
        norms = jax.tree.leaves(jax.tree.map(_squared_norm_beside, tree, second_moment))
    if axis_name is None or not norms:
        return norms
    devices = jax.lax.axis_size(axis_name)
    parts = [
        norm * shards(leaf, axis_name) / devices
        for norm, leaf in zip(norms, jax.tree.leaves(like), strict=True)
    ]
    return list(summed(jnp.stack(parts), axis_name))


def squared_modulus(x: ArrayLike) -> jax.Array:
    """|x|^2, elementwise, real, in float32 or wider."""
    x = jnp.asarray(x, wide_dtype(x))
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def _positive(second_moment: ArrayLike, leaf: ArrayLike) -> jax.Array:
    """Not zero where a square is too small for its dtype, and in float32 or wider.

    What is added goes with the leaf: a constant XLA would write to memory, as large as the leaf,
    where leaves of one shape share it.
    """
    moment = jnp.real(second_moment)  # Optax's is complex where the parameters are
    least: jax.Array = _LEAST * _squared_norm(leaf) + float(_finfo(moment.dtype).tiny)
    return moment.astype(wide_dtype(moment)) + least


def beside(x: ArrayLike, second_moment: ArrayLike) -> jax.Array:
    """Elementwise `x` divided by the fourth root of a second moment, in float32 or wider."""
    wide = jnp.asarray(x, wide_dtype(x))
    return wide * jax.lax.rsqrt(jnp.sqrt(_positive(second_moment, x)))


def real_size(leaf: ArrayLike, axis_name: AxisName) -> int:
    """Number of real coordinates on all devices of `axis_name`: a complex one counts as two."""
    local = jnp.size(leaf) * (2 if jnp.iscomplexobj(leaf) else 1)
    return local if axis_name is None else local * shards(leaf, axis_name)


def scaled(update: ArrayLike, factor: jax.Array, like: ArrayLike) -> jax.Array:
    """`factor * update`, computed in float32 or wider and returned in the dtype of `like`."""
    wide = jnp.asarray(update, wide_dtype(update))
    return jnp.asarray(factor * wide, jnp.result_type(like))


def incremented(count: jax.Array) -> jax.Array:
    """The count plus one, which stays at the largest integer."""
    return jnp.asarray(optax.safe_increment(count))


def copied(tree: Any) -> Any:
    """A copy that shares no buffer, so that both may be donated."""
    return jax.tree.map(
        lambda x: (
            jnp.zeros(x.shape, x.dtype)
            if isinstance(x, jax.ShapeDtypeStruct)
            else jnp.array(x, copy=True)
        ),
        tree,
    )


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)


def like(new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` in the dtype of `old`: Optax lets a state drift to the dtype of the gradients."""
    return new if jnp.result_type(new) == jnp.result_type(old) else jnp.asarray(new, old.dtype)
