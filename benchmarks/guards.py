"""The guards of the league of faults: this library's, and what others put around an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import salera_optax
from benchmarks.detectors import stands_out

REPLICAS = "replicas"
"""The name of the axis of the data-parallel replicas, over which every guard agrees."""

_WINDOW = 128


class SkipStepState(NamedTuple):
    """State of `skip_step`.

    Attributes:
      alarm: bool scalar, whether the last step was skipped.
      step: int32 scalar, steps so far, those skipped among them.
      losses: the last 128 losses.
      norms: the last 128 norms of the gradient.
      inner_state: state of the guarded optimizer.
    """

    alarm: jax.Array
    step: jax.Array
    losses: jax.Array
    norms: jax.Array
    inner_state: Any


def skip_step(
    inner: optax.GradientTransformation, axis_name: str
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose loss or gradient norm is 6 deviations above its mean of 128 steps.

    The rule of OLMo-core (github.com/allenai/OLMo-core, `optim/skip_step_optimizer.py`) and of
    Levanter (github.com/stanford-crfm/levanter, `optim/skipstep.py`), written anew. As there, what
    is skipped enters the window, a NaN too: then nothing passes for as long as it is in there.

    Args:
      inner: the optimizer to guard.
      axis_name: the axis of the replicas, over which the loss is averaged.

    Returns:
      An optimizer whose `update` needs `value`, the minibatch loss of the replica.
    """
    guarded = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> SkipStepState:
        empty = jnp.zeros(_WINDOW)
        return SkipStepState(
            jnp.zeros((), bool), jnp.zeros((), jnp.int32), empty, empty, inner.init(params)
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[Any, SkipStepState]:
        loss, norm = jax.lax.pmean(value, axis_name), optax.tree.norm(updates)
        step, place = state.step, state.step % _WINDOW
        skip = stands_out(loss, state.losses, step) | stands_out(norm, state.norms, step)
        moves, after = guarded.update(updates, state.inner_state, params, **extra_args)
        # They multiply by 0 or 1, and zero times NaN is NaN.
        return jax.tree.map(lambda u: jnp.where(skip, 0, 1) * u, moves), SkipStepState(
            alarm=skip,
            step=step + 1,
            losses=state.losses.at[place].set(loss),
            norms=state.norms.at[place].set(norm),
            inner_state=jax.tree.map(
                lambda old, new: jnp.where(skip, old, new), state.inner_state, after
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class Guard(NamedTuple):
    """How a guarded optimizer is made.

    Attributes:
      make: makes it from a learning rate, which may be traced, and the ratio of the minibatch to
        the training set.
      learning_rate: what it is run with.
      alarm: tells from its state whether the last step was an alarm; None where there are none.
    """

    make: Callable[[Any, float], optax.GradientTransformation]
    learning_rate: float = 1e-3
    alarm: Callable[[Any], jax.Array] | None = None


def _alarm(state: Any) -> jax.Array:
    return salera_optax.metrics(state)["alarm"]


GUARDS: dict[str, Guard] = {
    "Adam, unguarded": Guard(lambda rate, _: optax.adam(rate)),
    "apply_if_finite": Guard(
        lambda rate, _: optax.apply_if_finite(optax.adam(rate), max_consecutive_errors=5),
        alarm=lambda state: ~state.last_finite,
    ),
    "gradient clipping": Guard(
        lambda rate, _: optax.chain(optax.clip_by_global_norm(1), optax.adam(rate))
    ),
    "skip-step": Guard(
        lambda rate, _: skip_step(optax.adam(rate), REPLICAS), alarm=lambda state: state.alarm
    ),
    "Page-Hinkley, published": Guard(
        lambda rate, ratio: salera_optax.page_hinkley(
            optax.adam(rate), salera_optax.published(ratio), axis_name=REPLICAS
        ),
        alarm=_alarm,
    ),
    "page_hinkley(adam)": Guard(
        lambda rate, _: salera_optax.page_hinkley(optax.adam(rate), axis_name=REPLICAS),
        alarm=_alarm,
    ),
    "without snapshot": Guard(
        lambda rate, _: salera_optax.page_hinkley(
            optax.adam(rate), rollback=False, axis_name=REPLICAS
        ),
        alarm=_alarm,
    ),
    "page_hinkley(momentum)": Guard(
        lambda rate, _: salera_optax.page_hinkley(optax.sgd(rate, 0.9), axis_name=REPLICAS),
        0.05,
        alarm=_alarm,
    ),
    "salera(0.1)": Guard(
        lambda rate, _: salera_optax.salera(
            rate, law=salera_optax.score(2.12e-6), axis_name=REPLICAS
        ),
        0.1,
        alarm=_alarm,
    ),
}
"""By name, as the table and the picture show them; the last four are this library's, SALERA under
the paper's law.

The published test is the paper's text, which rolls back (its authors' code does not),
and here a NaN alarms in it too. `apply_if_finite` lets everything pass after five bad steps in a
row.
"""
