"""One optimizer step, update and application together, with an exact rollback."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._guard_state import PageHinkleyState
from salera_optax._page_hinkley import Guard


def step(
    tx: optax.GradientTransformation | optax.MultiSteps,
    grads: Any,
    opt_state: Any,
    params: Any,
    *,
    value: ArrayLike,
    **extra: Any,
) -> tuple[Any, Any]:
    """Updates the parameters; on an alarm they come back bit for bit, even from NaN.

    The same as `tx.update` followed by `optax.apply_updates`, but for alarms: adding `snapshot -
    params` is inexact and cannot heal a NaN, so the snapshot replaces the parameters instead.

    Args:
      tx: any Optax optimizer, guarded or not, or an `optax.MultiSteps`; a guard is found however
        deeply it is nested, though not under `optax.flatten`, which hides the parameters from it.
      grads: gradients, like the parameters.
      opt_state: the state of `tx`.
      params: the parameters.
      value: the minibatch loss at `params`, a real scalar.
      **extra: further arguments of `tx.update`.

    Returns:
      `(params, opt_state)`, each like the one that was given. Return them from a jitted training
      step in this order, the order of the arguments, and donated buffers can be reused.

    Raises:
      TypeError, ValueError: as `tx.update` does.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera()
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     x, state = salera_optax.step(tx, grads, state, x, value=loss)
      >>> [round(float(xi), 2) for xi in x]
      [0.98, -1.96]
    """
    return stepped(tx, grads, opt_state, params, value=value, **extra)


def stepped(
    tx: optax.GradientTransformation | optax.MultiSteps,
    grads: Any,
    opt_state: Any,
    params: Any,
    **extra: Any,
) -> tuple[Any, Any]:
    """The same as `step`, with `value` among `extra` or without one."""
    if isinstance(tx, Guard) and tx.step is not None:
        return tx.step(grads, opt_state, params, **extra)
    if isinstance(tx, optax.GradientTransformation):
        tx = optax.with_extra_args_support(tx)
    updates, opt_state = tx.update(grads, opt_state, params, **extra)
    return restored(opt_state, optax.apply_updates(params, updates)), opt_state


def guards(opt_state: Any) -> list[PageHinkleyState]:
    """The guards in an optimizer state, however deeply nested."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, PageHinkleyState))
    return [part for part in parts if isinstance(part, PageHinkleyState)]


def restored(opt_state: Any, params: Any) -> Any:
    """The snapshot where a guard has gone back to it; leaves masked from it stay as they are."""
    for guard in guards(opt_state):
        if guard.snapshot is None:
            continue
        params = jax.tree.map(
            lambda saved, current, back=guard.action.go_back: (
                current if isinstance(saved, optax.MaskedNode) else jnp.where(back, saved, current)
            ),
            guard.snapshot,
            params,
            is_leaf=lambda part: isinstance(part, optax.MaskedNode),
        )
    return params
