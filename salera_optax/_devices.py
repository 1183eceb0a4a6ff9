"""Axes of devices, in `shard_map` and `pmap`: names, sizes, and sums over them."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

AxisName = str | tuple[str, ...] | None  # of the devices in shard_map or pmap


def as_names(axis_name: AxisName) -> tuple[str, ...]:
    """The names, none for None."""
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def varying(x: Any) -> frozenset[str]:
    """The axes of `shard_map` over which `x` differs between the devices, by its type."""
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(kind.vma)  # before JAX 0.10


def _as_varying(x: jax.Array, names: tuple[str, ...]) -> Any:
    lax: Any = jax.lax
    if hasattr(lax, "pcast"):
        return lax.pcast(x, names, to="varying")
    return lax.pvary(x, names)  # before JAX 0.8.1


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
        x = _as_varying(x, missing)
    return jnp.asarray(jax.lax.psum(x, axis_name))


def any_of(
    test: Callable[[jax.Array], jax.Array], numbers: Iterable[jax.Array], axis_name: AxisName
) -> jax.Array:
    """Whether one of the scalars on a device passes the test, which zero does not."""
    passed = test(jnp.stack([jnp.zeros(()), *numbers]))
    return summed(jnp.sum(passed, dtype=jnp.float32), axis_name) > 0
