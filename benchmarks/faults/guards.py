"""The guards of the league of faults: this library's, and what others put around an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import salera_optax
from benchmarks.faults.rivals import skip_and_clip, skip_step, zclip

REPLICAS = "replicas"
"""The name of the axis of the data-parallel replicas, over which every guard agrees."""


class GuardedOptimizer(NamedTuple):
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


GUARDS: dict[str, GuardedOptimizer] = {
    "Adam, unguarded": GuardedOptimizer(lambda rate, _: optax.adam(rate)),
    "apply_if_finite": GuardedOptimizer(
        lambda rate, _: optax.apply_if_finite(optax.adam(rate), max_consecutive_errors=5),
        alarm=lambda state: ~state.last_finite,
    ),
    "gradient clipping": GuardedOptimizer(
        lambda rate, _: optax.chain(optax.clip_by_global_norm(1), optax.adam(rate))
    ),
    "skip-step": GuardedOptimizer(
        lambda rate, _: skip_step(optax.adam(rate), REPLICAS), alarm=lambda state: state.alarm
    ),
    "skip-step, MaxText": GuardedOptimizer(
        lambda rate, _: skip_step(optax.adam(rate), REPLICAS, nan_passes=False),
        alarm=lambda state: state.alarm,
    ),
    "skip-and-clip": GuardedOptimizer(
        lambda rate, _: skip_and_clip(optax.adam(rate)), alarm=lambda state: state.alarm
    ),
    "ZClip": GuardedOptimizer(lambda rate, _: optax.chain(zclip(), optax.adam(rate))),
    "Page-Hinkley, published": GuardedOptimizer(
        lambda rate, ratio: salera_optax.page_hinkley(
            optax.adam(rate), salera_optax.published(ratio), axis_name=REPLICAS
        ),
        alarm=_alarm,
    ),
    "page_hinkley(adam)": GuardedOptimizer(
        lambda rate, _: salera_optax.page_hinkley(optax.adam(rate), axis_name=REPLICAS),
        alarm=_alarm,
    ),
    "without snapshot": GuardedOptimizer(
        lambda rate, _: salera_optax.page_hinkley(
            optax.adam(rate), rollback=False, axis_name=REPLICAS
        ),
        alarm=_alarm,
    ),
    "page_hinkley(momentum)": GuardedOptimizer(
        lambda rate, _: salera_optax.page_hinkley(optax.sgd(rate, 0.9), axis_name=REPLICAS),
        0.05,
        alarm=_alarm,
    ),
    "salera": GuardedOptimizer(
        lambda rate, _: salera_optax.salera(rate, axis_name=REPLICAS), 0.01, alarm=_alarm
    ),
    "salera_adamw": GuardedOptimizer(
        lambda rate, _: salera_optax.salera_adamw(rate, axis_name=REPLICAS), 1e-4, alarm=_alarm
    ),
}
"""By name, as the table and the picture show them; the last five are this library's.

The published test is the paper's text, which rolls back (its authors' code does not),
and here a NaN alarms in it too. `apply_if_finite` lets everything pass after five bad steps in a
row.
"""
