"""The last alarms and held calls of a guard: kept on the device, read on the host."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LENGTH = 8  # calls remembered
CAUSES = ("", "doubt", "rise", "not finite", "update not finite")
_NORM_DECAY = 0.99  # per step, of the largest recent norm of a leaf


class History(NamedTuple):
    """The last `LENGTH` calls that were no quiet steps, newest last.

    Attributes:
      calls: int32, a row of the shape (4,) for every one: the call, from 0, or -1 where there was
        none yet; index of `CAUSES`; whether it was an alarm; and the leaf whose gradient norm stood
        out most from its own recent ones.
      values: of the shape (`LENGTH`, 2): the minibatch loss and the norm of the gradient.
      leaf_norms: the largest recent gradient norm of every leaf, of the shape (leaves,).
    """

    calls: jax.Array
    values: jax.Array
    leaf_norms: jax.Array

    @property
    def alarm_causes(self) -> jax.Array:
        """Index of `CAUSES` where the call was an alarm, else 0; of the shape (..., `LENGTH`)."""
        return self.calls[..., 1] * self.calls[..., 2]


def initial(leaves: int, dtype: jax.typing.DTypeLike) -> History:
    """An empty history of a guard over so many leaves."""
    none = jnp.tile(jnp.array([-1, 0, 0, 0], jnp.int32), (LENGTH, 1))
    return History(none, jnp.zeros((LENGTH, 2), dtype), jnp.zeros(leaves, dtype))


@jax.jit
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

    def entered(table: jax.Array, *entry: jax.Array) -> jax.Array:
        row = jnp.stack([value.astype(table.dtype) for value in entry])
        return jnp.where(event, jnp.concatenate([table[1:], row[None]]), table)

    recent = jnp.maximum(leaf_norms, _NORM_DECAY * history.leaf_norms)
    return History(
        calls=entered(history.calls, step, cause, alarm, leaf),
        values=entered(history.values, loss, gradient_norm),
        leaf_norms=jnp.where(event, history.leaf_norms, recent),
    )


def rows(history: History, names: list[str]) -> Iterator[dict[str, Any]]:
    """One plain dictionary an entry, oldest first."""
    host: History = jax.device_get(history)
    for (step, cause, alarm, leaf), (loss, norm) in zip(host.calls, host.values, strict=True):
        if step >= 0:
            yield {
                "step": int(step),
                "cause": CAUSES[int(cause)],
                "alarm": bool(alarm),
                "loss": float(loss),
                "gradient_norm": float(norm),
                "leaf": names[int(leaf)] if names else "",
            }
