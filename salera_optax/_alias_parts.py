"""What the ready-made optimizers are made of, besides the transformations: rate, decay, guard."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._arrays import incremented, scaled, statistics_dtype
from salera_optax._page_hinkley import page_hinkley
from salera_optax._validation import check_number

_FROM_ZERO = (lambda x: 0 <= x < math.inf), "finite and at least 0"


class LearningRateState(NamedTuple):
    """State of the base learning rate of an alias, which `metrics` reads.

    Attributes:
      step: int32 scalar, the steps taken, the argument of a schedule.
      learning_rate: the base learning rate of the last step, a float32 or wider scalar.
    """

    step: jax.Array
    learning_rate: jax.Array


def scaled_by_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Optax's `scale_by_learning_rate`, which also remembers the rate."""
    schedule: Any = learning_rate
    if not callable(schedule):
        check_number("learning_rate", schedule, *_FROM_ZERO)

    def rate_at(step: jax.Array, dtype: Any) -> jax.Array:
        rate = schedule(step) if callable(schedule) else schedule
        return jnp.array(rate, dtype, copy=True)  # never the caller's buffer

    def init_fn(params: Any) -> LearningRateState:
        step = jnp.zeros((), jnp.int32)
        return LearningRateState(step, rate_at(step, statistics_dtype(params)))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, LearningRateState]:
        del params
        rate = rate_at(state.step, state.learning_rate.dtype)
        updates = jax.tree.map(lambda u: scaled(u, -rate, u), updates)
        return updates, LearningRateState(incremented(state.step), rate)

    return optax.GradientTransformation(init_fn, update_fn)


def with_momentum(
    momentum: ArrayLike | None, nesterov: bool, *, by_default: bool = True
) -> optax.GradientTransformation:
    """The momentum of an alias; where there is none `by_default`, Nesterov's needs one given."""
    if momentum is None:
        if nesterov and not by_default:
            raise ValueError("nesterov must be False without a momentum, got True.")
        return optax.identity()
    check_number("momentum", momentum, lambda decay: 0 <= decay < 1, "in [0, 1)")
    return optax.trace(momentum, nesterov)


def with_decay(
    weight_decay: optax.ScalarOrSchedule, mask: Any, *, everywhere: bool
) -> optax.GradientTransformation:
    """Adds the decay, and if not `everywhere`, only where there is something to add it to.

    At the minimum of loss and decay together the gradient and the decay cancel. A path that saw the
    gradient alone would see it agree with itself there, and the rate would rise for ever: it has to
    see both. But where there is no gradient nothing would oppose the decay.
    """
    if not callable(weight_decay):
        check_number("weight_decay", weight_decay, *_FROM_ZERO)
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask)
    if everywhere:
        return decay

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decayed, state = decay.update(updates, state, params)
        return jax.tree.map(lambda u, d: jnp.where(u == 0, u, d), updates, decayed), state

    return optax.GradientTransformation(decay.init, update_fn)


def _unchanged(inner_state: Any) -> Any:
    return inner_state


def with_guard(
    optimizer: optax.GradientTransformation, reset_path: bool, **arguments: Any
) -> optax.GradientTransformationExtraArgs:
    """The guard of the aliases, at whose alarms the optimizer starts over, or remembers all."""
    return page_hinkley(optimizer, on_alarm=None if reset_path else _unchanged, **arguments)
