"""What the ready-made optimizers are made of, besides the transformations: rate, decay, guard."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._arrays import incremented, real_size, scaled, squared_norms, statistics_dtype
from salera_optax._devices import AxisName, as_names, varying
from salera_optax._laws import Law, Limits, Published
from salera_optax._page_hinkley import page_hinkley
from salera_optax._validation import check_number

_LONGEST = (
    0.12  # per weight, a step at any time, in units of the root mean square of all parameters
)
_OPENING = 0.06  # of the logarithms of the limits per step: the most by which `ratio` moves a rate
_FROM_ZERO = (lambda x: 0 <= x < math.inf), "finite and at least 0"


class LearningRateState(NamedTuple):
    """State of the base learning rate of an alias, which `metrics` reads.

    Attributes:
      step: int32 scalar, the steps taken, the argument of a schedule.
      learning_rate: the base learning rate of the last step, a float32 or wider scalar.
      limited: bool scalar, whether steps are kept small beside the parameters, which so must not
        have been zero.
    """

    step: jax.Array
    learning_rate: jax.Array
    limited: jax.Array


def rate_at(learning_rate: optax.ScalarOrSchedule, step: jax.Array, dtype: Any) -> jax.Array:
    """The learning rate of that step, a scalar."""
    rate = learning_rate(step) if callable(learning_rate) else learning_rate
    return jnp.array(rate, dtype, copy=True)  # never the caller's buffer


def scaled_by_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Optax's `scale_by_learning_rate`, which also remembers the rate."""
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, *_FROM_ZERO)

    def init_fn(params: Any) -> LearningRateState:
        step = jnp.zeros((), jnp.int32)
        rate = rate_at(learning_rate, step, statistics_dtype(params))
        return LearningRateState(step, rate, limited=jnp.zeros((), bool))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, LearningRateState]:
        del params
        rate = rate_at(learning_rate, state.step, state.learning_rate.dtype)
        updates = jax.tree.map(lambda u: scaled(u, -rate, u), updates)
        return updates, state._replace(step=incremented(state.step), learning_rate=rate)

    return optax.GradientTransformation(init_fn, update_fn)


def with_limits(
    optimizer: optax.GradientTransformationExtraArgs,
    learning_rate: optax.ScalarOrSchedule,
    law: Law | None,
    first: tuple[float, float],
    axis_name: AxisName,
    *,
    of_gradient: bool,
) -> optax.GradientTransformationExtraArgs:
    """ALERA whose steps are small beside the parameters, whatever the learning rate.

    The first ones above all: a step that is much beside the weights kills units of a network before
    a loss could tell, and with one that is little a short run is over before the rates have
    climbed. The limits open as fast as `ratio` moves a rate.

    Args:
      optimizer: a chain of `scale_by_alera` and others that ends with `scaled_by_rate`.
      learning_rate: of it. Below a schedule there is no limit: it may be a warm-up.
      law: of it. Under that of the paper there is none at all.
      first: the least and the largest length of the first step, per weight, in units of the root
        mean square of all parameters.
      axis_name: as in `alera`.
      of_gradient: whether a step is as long as its gradient, and not of the length one.
    """
    if isinstance(law, Published):
        return optimizer
    least = -math.inf if callable(learning_rate) else math.log(first[0])

    def init_fn(params: Any) -> Any:
        state: Any = optimizer.init(params)
        leaves = jax.tree.leaves(params)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
            return state
        # Inside `shard_map` a leaf may be a part of a whole, outside of it none is.
        inside = any(varying(leaf).intersection(as_names(axis_name)) for leaf in leaves)
        limited = _root_mean_square(params, axis_name if inside else None) > 0
        return (*state[:-1], state[-1]._replace(limited=limited))

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        ours = isinstance(state, tuple) and isinstance(state[-1], LearningRateState)
        if params is None or not ours:  # of another state it says what is wrong
            return optimizer.update(updates, state, params, **extra_args)
        size = _root_mean_square(params, axis_name)
        rate = rate_at(learning_rate, state[-1].step, size.dtype)
        known = state[-1].limited & (size > 0) & (size < math.inf) & (rate > 0)
        unit = jnp.log(jnp.where(known, size, 1) / jnp.where(known, rate, 1))
        opened = _OPENING * state[-1].step.astype(size.dtype)
        high = jnp.minimum(math.log(first[1]) + opened, math.log(_LONGEST))
        limits = Limits(
            lowest=jnp.where(known, unit + least - opened, -math.inf),
            highest=jnp.where(known, unit + high, math.inf),
            of_gradient=jnp.asarray(of_gradient),
        )
        return optimizer.update(updates, state, params, rate_limits=limits, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _root_mean_square(params: Any, axis_name: AxisName) -> jax.Array:
    dtype = statistics_dtype(params)
    squares = [jnp.asarray(s, dtype) for s in squared_norms(params, axis_name, params)]
    count = sum(real_size(leaf, axis_name) for leaf in jax.tree.leaves(params))
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype)) / max(float(count), 1))


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
