"""The detector of catastrophes, on scalars: a Page-Hinkley test on the minibatch loss.

The published test (arXiv 1709.01427, Section 3.2, in the form that its authors' code runs)
accumulates how far the smoothed loss lies above its average and raises an alarm when the sum has
risen by `threshold * |first loss|`:

    smoothed  = (n smoothed + loss)/(n + 1)  while n <= 1/rho,  then (1 - rho) smoothed + rho loss
    average   = (n average + smoothed)/(n + 1)
    statistic = max(0, statistic + smoothed - average)  (L - L_min of the paper, with less rounding)

On a plateau that sum is a random walk, which crosses any fixed threshold in time; smoothing makes
it late after a jump; and the threshold means nothing where the first loss is near zero. The robust
test, the default, adds the unit that is missing, the deviation of the loss from its smoothed value,
measured as it goes:

    statistic = max(0, statistic + smoothed - average - SLACK deviation),
                alarm above max(threshold |first loss|, LEVEL deviation)
    jump:       loss - smoothed above max(threshold |first loss|, JUMP deviation), at once
    spike:      a gradient norm above SPIKE times the largest recent one, before any state sees it
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

Detector = Literal["robust", "published"]
DETECTORS: tuple[str, ...] = get_args(Detector)

SLACK = 1.0  # deviations that the smoothed loss may lie above its average at no charge
LEVEL = 15.0  # deviations, least threshold of the statistic
JUMP = 40.0  # deviations, least jump of one loss
SPIKE = 10.0  # times the largest recent gradient norm
_FIRST_UNIT = 1 / LEVEL  # times threshold * max(|first loss|, 1): at first as sharp as published
_MEMORY = 0.01  # rate of the running deviation, once 1/_MEMORY losses have been accepted
_PRIOR = 10  # losses that the assumed deviation counts for
_DIFFERENCE = 0.886  # deviation of a Gaussian over the mean |difference| of two
_CLIP = 8.0  # deviations, the most that one loss adds to the running deviation
_NORM_DECAY = (
    0.999  # per step, of the largest recent gradient norm: the memory of Adam's second moment
)
_NORM_GROWTH = 1.2  # per spike, so that a lasting change of scale is accepted in the end


class DetectorState(NamedTuple):
    """State of the detector, scalars.

    Attributes:
      n: int32, losses accepted since the start or the last alarm.
      seen: int32, losses accepted since the start.
      reference: |first finite loss|, -1 before it came.
      last: the last loss accepted.
      smoothed: smoothed loss.
      average: average of the smoothed loss.
      statistic: the Page-Hinkley statistic.
      threshold: what the statistic was last compared with.
      deviation: running deviation of the loss from its smoothed value.
      gradient_norm: largest recent norm of the gradient.
    """

    n: jax.Array
    seen: jax.Array
    reference: jax.Array
    last: jax.Array
    smoothed: jax.Array
    average: jax.Array
    statistic: jax.Array
    threshold: jax.Array
    deviation: jax.Array
    gradient_norm: jax.Array


class Verdict(NamedTuple):
    """What the detector says of one step, boolean scalars.

    Attributes:
      catastrophe: the loss has risen, by the Page-Hinkley statistic: the rate is to blame.
      outlier: one loss or one gradient is far larger than any recent one, and the statistic has
        not risen: the minibatch may be to blame.
      nonfinite: the loss or the gradient is not finite.
    """

    catastrophe: jax.Array
    outlier: jax.Array
    nonfinite: jax.Array


def init(dtype: jax.typing.DTypeLike) -> DetectorState:
    """The state before the first loss, with statistics of the given floating-point dtype."""
    counts, statistics = jnp.zeros((2,), jnp.int32), jnp.zeros((8,), dtype)
    return DetectorState(*counts, *statistics)._replace(reference=-jnp.ones((), dtype))


def observe(
    state: DetectorState,
    loss: jax.Array,
    gradient_norm: jax.Array,
    smoothing: ArrayLike,
    threshold: ArrayLike,
    detector: Detector,
    rollback: bool,
) -> tuple[Verdict, DetectorState]:
    """Judges one step by its loss and its gradient norm, scalars in the dtype of the state.

    With `rollback` the parameters are restored at an alarm, so that the loss should be as before.
    """
    dtype = state.smoothed.dtype
    rho, n = jnp.asarray(smoothing, dtype), state.n.astype(dtype)
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)

    known = state.reference >= 0
    reference = jnp.where(known, state.reference, jnp.abs(loss))
    relative = jnp.asarray(threshold, dtype)
    floor = relative * reference
    rise = loss - state.smoothed
    # As increments, which lose nothing however many losses there were.
    smoothed = state.smoothed + rise * jnp.where(n > 1 / rho, rho, 1 / (n + 1))
    average = state.average + (smoothed - state.average) / (n + 1)

    if detector == "published":
        limit, deviation = floor, state.deviation
        statistic = jnp.maximum(0, state.statistic + smoothed - average)
        jump = spike = jnp.zeros((), bool)
    else:
        unit = jnp.where(known, state.deviation, _FIRST_UNIT * relative * jnp.maximum(reference, 1))
        limit = jnp.maximum(floor, LEVEL * unit)
        statistic = jnp.maximum(0, state.statistic + smoothed - average - SLACK * unit)
        # After a rollback the parameters are those at which the last accepted loss was measured.
        level = jnp.where(n > 0, state.smoothed, state.last)
        comparable = known if rollback else n > 0
        jump = comparable & (loss - level > jnp.maximum(floor, JUMP * unit))
        spike = (state.gradient_norm > 0) & (gradient_norm > SPIKE * state.gradient_norm)
        # Successive differences: a jump that lasts enters them once, not until it is smoothed away.
        size = _DIFFERENCE * jnp.abs(loss - state.last)
        # An alarm does not shorten the memory, or the losses around it would soon pass for noise.
        weight = jnp.maximum(1 / (state.seen.astype(dtype) + _PRIOR), _MEMORY)
        step = weight * (jnp.minimum(size, _CLIP * unit) - unit)
        # Never below the rounding of the loss itself, or it could not grow again.
        least = np.finfo(dtype).eps * jnp.maximum(jnp.abs(loss), 1)
        deviation = jnp.where((n > 0) | jump, jnp.maximum(unit + step, least), unit)

    catastrophe = statistic > limit
    verdict = Verdict(finite & catastrophe, finite & (jump | spike) & ~catastrophe, ~finite)
    alarm = verdict.catastrophe | verdict.outlier | verdict.nonfinite
    kept_norm = jnp.where(
        gradient_norm > 0,
        jnp.maximum(gradient_norm, _NORM_DECAY * state.gradient_norm),
        state.gradient_norm,
    )
    accepted = DetectorState(
        jnp.asarray(optax.safe_increment(state.n)),
        jnp.asarray(optax.safe_increment(state.seen)),
        reference,
        loss,
        smoothed,
        average,
        statistic,
        limit,
        deviation,
        kept_norm,
    )
    # A spike or a non-finite value never enters a statistic; a high loss widens the deviation, by
    # a bounded step, so that a loss which has become noisier is accepted in the end.
    rejected = init(dtype)._replace(
        seen=state.seen,
        reference=jnp.where(finite, reference, state.reference),
        last=state.last,
        threshold=jnp.where(finite, limit, state.threshold),
        deviation=jnp.where(finite & (catastrophe | jump), deviation, state.deviation),
        # After a catastrophe the recent norms may be the exploding ones: start over.
        gradient_norm=jnp.where(finite & spike, _NORM_GROWTH, 1)
        * ~verdict.catastrophe
        * state.gradient_norm,
    )
    chosen = [jnp.where(alarm, r, a) for r, a in zip(rejected, accepted, strict=True)]
    return verdict, DetectorState(*chosen)
