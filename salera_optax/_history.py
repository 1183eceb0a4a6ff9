"""The last alarms and held calls of a guard: kept on the device, read on the host."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LENGTH = 8  # calls remembered
CAUSES = ("", "doubt", "rise", "not finite", "update not finite")
_NORM_DECAY = 0.99  # per step, of the largest recent norm of a leaf


class History(NamedTuple):
    """The last `LENGTH` calls that were no quiet steps, newest last; arrays of that length.

    Attributes:
      step: int32, the call, from 0; -1 where there was none yet.
      cause: int32, index of `CAUSES`.
      alarm: bool, whether it was an alarm.
      loss: the minibatch loss.
      gradient_norm: norm of the gradient.
      leaf: int32, the leaf whose gradient norm stood out most from its own recent ones.
      leaf_norms: the largest recent gradient norm of every leaf, of the shape (leaves,).
    """

    step: jax.Array
    cause: jax.Array
    alarm: jax.Array
    loss: jax.Array
    gradient_norm: jax.Array
    leaf: jax.Array
    leaf_norms: jax.Array


def initial(leaves: int, dtype: jax.typing.DTypeLike) -> History:
    """An empty history of a guard over so many leaves."""
    none = jnp.zeros(LENGTH, jnp.int32)
    unknown = jnp.zeros(LENGTH, dtype)
    return History(none - 1, none, none > 0, unknown, unknown, none, jnp.zeros(leaves, dtype))


def recorded(
    history: History,
    step: jax.Array,
    cause: jax.Array,
    alarm: jax.Array,
    loss: jax.Array,
    gradient_norm: jax.Array,
    leaf_norms: jax.Array,
) -> History:
    """The history after a call, with a new entry where there is a cause."""
    leaf = jnp.zeros((), jnp.int32)
    if leaf_norms.size:
        known = history.leaf_norms > 0
        ratio = leaf_norms / jnp.where(known, history.leaf_norms, 1)
        leaf = jnp.argmax(jnp.where(jnp.isfinite(ratio), ratio * known, jnp.inf))
    event = cause > 0
    entry = (step, cause, alarm, loss, gradient_norm, leaf.astype(jnp.int32))
    columns = [
        jnp.where(event, jnp.append(column[1:], value.astype(column.dtype)), column)
        for column, value in zip(history[:-1], entry, strict=True)
    ]
    recent = jnp.maximum(leaf_norms, _NORM_DECAY * history.leaf_norms)
    return History._make([*columns, jnp.where(event, history.leaf_norms, recent)])


def rows(history: History, names: list[str]) -> Iterator[dict[str, Any]]:
    """One plain dictionary an entry, oldest first."""
    host: History = jax.device_get(history)
    for step, cause, alarm, loss, norm, leaf in zip(*host[:-1], strict=True):
        if step >= 0:
            yield {
                "step": int(step),
                "cause": CAUSES[int(cause)],
                "alarm": bool(alarm),
                "loss": float(loss),
                "gradient_norm": float(norm),
                "leaf": names[int(leaf)] if names else "",
            }
