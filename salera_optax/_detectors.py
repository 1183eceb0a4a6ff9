"""The detectors of a catastrophe: what they are, and `published`, the paper's test.

The published test (arXiv 1709.01427, Section 3.2, in the form that its authors' code runs)
accumulates how far the smoothed loss lies above its average and raises an alarm when the sum has
risen by `threshold * |first loss|`:

    smoothed  = (n smoothed + loss)/(n + 1)  while n <= 1/rho,  then (1 - rho) smoothed + rho loss
    average   = (n average + smoothed)/(n + 1)
    statistic = max(0, statistic + smoothed - average)  (L - L_min of the paper, with less rounding)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax._arrays import incremented, select
from salera_optax._validation import check_number


class Verdict(NamedTuple):
    """What a detector says of one call, boolean scalars.

    Attributes:
      quiet: whether nothing in this call speaks against the parameters.
      doubt: whether loss or gradient lie so far outside that nothing should be learned from this
        minibatch. The guard looks at another one, at the same parameters.
      alarm: whether the loss has risen for certain.
      risen: whether the loss has risen so far, if slowly, that these parameters are not worth going
        back to, however quiet this call is. The older ones are kept.
    """

    quiet: jax.Array
    doubt: jax.Array
    alarm: jax.Array
    risen: jax.Array | bool = False


class Detector(NamedTuple):
    """A test on the minibatch loss for `page_hinkley`: two pure functions, as in Optax.

    Both are traced under `jit`: no Python branch on a value. Numbers that are not finite never
    reach `observe`: the guard doubts them by itself.

    Attributes:
      init: `init(dtype)` makes the state, a pytree of scalars, with floating-point numbers of that
        dtype. `metrics` shows its fields `statistic` and `threshold` where it has them.
      observe: `observe(state, loss, gradient_norm)` returns a `Verdict` and the next state, of the
        same structure, shapes and dtypes. Loss and norm are scalars of the dtype given to `init`.
        After an alarm the guard has put the parameters back, if it can; a second alarm with no
        quiet loss in between means that the loss is high at parameters that were good.

    Example:
      A fixed bound on the loss, around SGD:

      >>> import jax.numpy as jnp, optax, salera_optax
      >>> def observe(state, loss, gradient_norm):
      ...   high = loss > 10.0
      ...   return salera_optax.Verdict(quiet=~high, doubt=high, alarm=loss > 100.0), state
      >>> bound = salera_optax.Detector(init=lambda dtype: (), observe=observe)
      >>> tx = salera_optax.page_hinkley(optax.sgd(0.1), bound)
      >>> x = jnp.ones(2)
      >>> state = tx.init(x)
      >>> for loss in (1.0, 20.0, 200.0):
      ...   x, state = salera_optax.step(tx, x, state, x, value=loss)
      >>> x.tolist(), int(state.alarms)  # the one step is taken back
      ([1.0, 1.0], 1)
    """

    init: Callable[[Any], Any]
    observe: Callable[[Any, jax.Array, jax.Array], tuple[Verdict, Any]]


class PublishedState(NamedTuple):
    """State of `published`, scalars.

    Attributes:
      accepted: int32, losses since the start or the last alarm.
      reference: |first loss|, -1 before it came.
      smoothed: smoothed loss.
      average: average of the smoothed loss.
      statistic: the Page-Hinkley statistic.
      threshold: what the statistic was last compared with.
    """

    accepted: jax.Array
    reference: jax.Array
    smoothed: jax.Array
    average: jax.Array
    statistic: jax.Array
    threshold: jax.Array


def published(smoothing: ArrayLike = 0.1, threshold: ArrayLike = 0.1) -> Detector:
    """The Page-Hinkley test of the paper, in the form that its authors' code runs.

    For the paper's experiments. On a plateau it raises false alarms, and it is late where the loss
    has fallen far below the first one: `robust` is the one to use.

    Args:
      smoothing: weight of a new loss in the smoothed loss, in (0, 1]; rho in the paper, which takes
        the ratio of the minibatch to the training set.
      threshold: rise of the statistic that raises an alarm, in units of `|first loss|`, finite and
        greater than 0; 1/lambda in the paper.

    Returns:
      A detector, which finds every loss quiet but one that raises an alarm, and has no doubts.

    Raises:
      ValueError, TypeError: if a number is out of range or none.

    Example:
      >>> import jax.numpy as jnp
      >>> detector = published(smoothing=0.5, threshold=0.05)
      >>> state, one = detector.init(jnp.float32), jnp.ones(())
      >>> for loss in (2.0, 2.5):
      ...   verdict, state = detector.observe(state, jnp.float32(loss), one)
      >>> bool(verdict.alarm)  # smoothed 2.25, average 2.125; and 0.1 is allowed
      True

    Source: arXiv 1709.01427, Section 3.2, Algorithm 1, in the form of the authors' code.
    """
    check_number("smoothing", smoothing, lambda s: 0 < s <= 1, "in (0, 1]")
    check_number("threshold", threshold, lambda t: 0 < t < math.inf, "finite and greater than 0")

    def init(dtype: jax.typing.DTypeLike) -> PublishedState:
        zero = jnp.zeros((), dtype)
        return PublishedState(jnp.zeros((), jnp.int32), zero - 1, zero, zero, zero, zero)

    def observe(
        state: PublishedState, loss: jax.Array, gradient_norm: jax.Array
    ) -> tuple[Verdict, PublishedState]:
        del gradient_norm
        dtype = state.smoothed.dtype
        rho, n = jnp.asarray(smoothing, dtype), state.accepted.astype(dtype)
        reference = jnp.where(state.reference >= 0, state.reference, jnp.abs(loss))
        limit = jnp.asarray(threshold, dtype) * reference
        # As increments, which lose nothing however many losses there were.
        weight = jnp.where(n > 1 / rho, rho, 1 / (n + 1))
        smoothed = state.smoothed + (loss - state.smoothed) * weight
        average = state.average + (smoothed - state.average) / (n + 1)
        statistic = jnp.maximum(0, state.statistic + smoothed - average)
        alarm = statistic > limit
        accepted = PublishedState(
            incremented(state.accepted), reference, smoothed, average, statistic, limit
        )
        restarted = init(dtype)._replace(reference=reference, threshold=limit)
        return Verdict(~alarm, jnp.zeros((), bool), alarm), select(alarm, restarted, accepted)

    return Detector(init, observe)
