"""The detector that is the default, on scalars.

On a plateau the sum of the published test is a random walk, which crosses any fixed threshold in
time; smoothing makes it late after a jump; and the threshold means nothing where the first loss is
near zero. This test measures the loss in a unit that the run itself supplies, its deviation from
its level:

    z         = (loss - level)/deviation, within -CLIP and CLIP
    statistic = max(0, statistic + z - SLACK),  alarm above LIMIT, or NEW_LEVEL behind an alarm
    doubt     : z at its bound, or a gradient norm above SPIKE times the largest recent one
    risen     : level above its base by more than RISEN deviations of that time

Level and deviation are averages that look at rises and falls apart. The level falls faster than it
rises, and only what lies above it widens the deviation: a descent is no noise. Where the level
falls to a new low, the variance falls in proportion: the noise of a loss goes with its size. A
noise that is correlated, or has a period, is measured as it is, and no rise moves the averages by
more than LEARNED deviations, nor a single fall the level by more than FALL.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from salera_optax._arrays import incremented, select
from salera_optax._detectors import Detector, Verdict
from salera_optax._scalars import Scalars, initial, named

CLIP = 8.0  # deviations, the most that one loss counts for
SLACK = 2.0  # deviations above the prediction that are no evidence
LIMIT = 17.0  # deviations in all: three losses at the clip, or a longer rise of fewer
NEW_LEVEL = 239.0  # the same behind an alarm, where each high loss counts for the most: forty
SPIKE = 10.0  # times the largest recent gradient norm
RISEN = 3.0  # deviations above the base, behind which no snapshot is taken
PLATEAU = 500  # steps so high, behind which the level is the new base
LEARNED = 5.0  # deviations, the most that one high loss moves the averages by
FALL = 16.0  # the same of a low loss and the level; of one behind another, twice as much each time
_RISING, _FALLING = 0.03, 0.06  # rates of the level, after the first few losses
_DEVIATION_RATE = 0.01
_PRIOR = 5  # losses that the first guess of the deviation counts for
_FIRST = 0.1  # that guess, in units of |first loss|
_WIDTH = 1.1  # times the root of the average, which falls make smaller than the deviation of noise
_USUAL = 0.01  # share of bad minibatches up to which three doubts in a row make an alarm
_NORM_DECAY = 0.999  # per step, of the largest recent norm: the memory of Adam's second moment


class Band(NamedTuple):
    """Where the next loss is expected, and how large a gradient, scalars.

    Attributes:
      level: average of the loss.
      lowest: the lowest that the level has been.
      deviation: of the loss above its level.
      gradient_norm: largest recent norm of the gradient.
      base: the lowest level of late, from which a slow rise is measured.
      base_deviation: the deviation of that time.
    """

    level: Any = 0.0
    lowest: Any = 0.0
    deviation: Any = 0.0
    gradient_norm: Any = 0.0
    base: Any = 0.0
    base_deviation: Any = 0.0


class _Robust(NamedTuple):
    """What `robust` remembers, scalars.

    Attributes:
      count: int32, losses since the start or since the last new level.
      band: what is expected of the next loss.
      quiet_band: the same as of the last snapshot, to which an alarm goes back.
      statistic: evidence of a rise, in deviations.
      threshold: what the statistic is compared with.
      high: int32, calls in a row with the level far above its base.
      again: bool, whether no loss has been quiet since the last alarm.
      fall: how far the last loss lay below the level, as far as that was learned.
      doubts: int32, doubtful losses in a row.
      faults: doubts in a row before a loss that was none, on average: the data were to blame.
    """

    count: Any = 0
    band: Any = Band()
    quiet_band: Any = Band()
    statistic: Any = 0.0
    threshold: Any = LIMIT
    high: Any = 0
    again: Any = False
    fall: Any = 0.0
    doubts: Any = 0
    faults: Any = 0.0


class RobustState(Scalars):
    """State of `robust`: the fields of `_Robust`."""

    count, band, quiet_band, statistic, threshold, high, again, fall, doubts, faults = named(
        _Robust()
    )


def robust() -> Detector:
    """Our test, the default: the loss in units of its own deviation, and a look at the gradient.

    Nothing to tune. It doubts a loss more than 8 deviations above what it expects, and a gradient
    norm more than ten times the largest recent one. It raises an alarm after three doubtful losses,
    after a longer rise of fewer deviations, or after nine doubtful gradients, and goes back to what
    was expected before the rise. Where bad minibatches are common, with normal ones behind them, it
    asks for more of them in a row (six if they are a tenth of all). A second alarm, with no quiet
    loss in between, needs forty doubtful losses; it takes the present loss for the new level.

    The deviation is measured as it goes, from a tenth of the first loss on. A noise that is
    heavy-tailed, correlated or periodic so raises hardly a false alarm; a rise that is slow in
    units of that noise goes unnoticed.

    Returns:
      A detector.

    Example:
      >>> import jax.numpy as jnp
      >>> detector = robust()
      >>> state, one = detector.init(jnp.float32), jnp.ones(())
      >>> for loss in (2.0, 1.9, 1.8, 90.0, 91.0, 89.0):
      ...   verdict, state = detector.observe(state, jnp.float32(loss), one)
      ...   print("alarm" if verdict.alarm else "doubt" if verdict.doubt else "quiet")
      quiet
      quiet
      quiet
      doubt
      doubt
      alarm
    """
    return Detector(_init, _observe)


def _init(dtype: jax.typing.DTypeLike) -> RobustState:
    return RobustState.of(initial(_Robust(), dtype))


@jax.jit  # traced once for all guards
def _observe(
    state: RobustState, loss: jax.Array, gradient_norm: jax.Array
) -> tuple[Verdict, RobustState]:
    first = state.count == 0
    before = select(first, _around(loss, loss, gradient_norm), state.band)
    z = jnp.minimum((loss - before.level) / before.deviation, CLIP)

    high = z >= CLIP
    spike = (before.gradient_norm > 0) & (gradient_norm > SPIKE * before.gradient_norm)
    # Nine doubtful gradients in a row make an alarm, whatever the loss.
    evidence = jnp.maximum(z, -CLIP) - SLACK
    evidence = jnp.where(high, evidence * _weight_of_a_doubt(state.faults), evidence)
    evidence = jnp.where(spike, jnp.maximum(evidence, LIMIT / 8), evidence)
    evidence = jnp.where(state.again & (evidence > 0), CLIP - SLACK, evidence)
    statistic = jnp.maximum(0, state.statistic + evidence)
    alarm, doubt = statistic > state.threshold, high | spike
    # Behind an alarm one normal loss is enough, if it comes with a gradient: a minibatch that
    # teaches nothing may be as bad as the others.
    normal = (statistic == 0) | (state.again & (evidence <= 0))
    quiet = normal & ~doubt & ~(state.again & (gradient_norm == 0))

    far = before.level > before.base + RISEN * before.base_deviation
    # Steps at the edge of stability make the loss rise while it is quiet now and then.
    risen = far & ~state.again

    renewed = _around(loss, loss - state.quiet_band.level, gradient_norm)
    deviation = jnp.maximum(renewed.deviation, state.quiet_band.deviation)
    renewed = renewed._replace(deviation=deviation, base_deviation=deviation)
    settled = state.high >= PLATEAU
    learned, fall = _learned(before, state.count, loss, state.fall, settled)
    largest = jnp.maximum(gradient_norm, _NORM_DECAY * before.gradient_norm)
    unheard = spike | (gradient_norm == 0)
    learned = learned._replace(gradient_norm=jnp.where(unheard, before.gradient_norm, largest))
    new_level = alarm & state.again
    again = jnp.where(alarm, ~state.again, state.again & ~quiet)
    # What comes between an alarm and a quiet loss is evidence, and nothing to learn from.
    learned = select(again, state.band, learned)
    band = select(alarm, select(state.again, renewed, state.quiet_band), learned)
    after = _Robust(
        count=jnp.where(new_level, 1, incremented(state.count)),
        band=band,
        quiet_band=select((quiet & ~risen) | new_level, band, state.quiet_band),
        statistic=jnp.where(alarm | normal, 0, statistic),
        threshold=jnp.where(again, NEW_LEVEL, LIMIT).astype(loss.dtype),
        high=jnp.where(far & ~alarm & ~settled, incremented(state.high), 0),
        again=again,
        fall=fall,
        doubts=jnp.where(doubt & ~alarm, incremented(state.doubts), 0),
        faults=jnp.where(
            doubt | state.again,
            state.faults,
            state.faults + _weight(state.count, loss.dtype) * (state.doubts - state.faults),
        ),
    )
    return Verdict(quiet, doubt, alarm, risen), RobustState.of(after)


def _weight(count: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """What a new loss counts for in an average that begins with a first guess."""
    return jnp.maximum(_DEVIATION_RATE, 1 / (count.astype(dtype) + _PRIOR))


def _weight_of_a_doubt(faults: jax.Array) -> jax.Array:
    """Less where many minibatches are bad, so that a run of them by chance stays as rare."""
    share = jnp.maximum(faults / (1 + faults), _USUAL)
    return jnp.log(share) / math.log(_USUAL)


def _learned(
    band: Band, count: jax.Array, loss: jax.Array, fall: jax.Array, settled: jax.Array
) -> tuple[Band, jax.Array]:
    """Level and deviation with one more loss, and its fall; `fall` is that of the last one.

    Where it is `settled`, the level is the new base.
    """
    losses, limits = count.astype(loss.dtype), np.finfo(loss.dtype)
    # Behind one loss that is far too low, as of an empty minibatch, normal ones would look high.
    most = jnp.minimum(jnp.maximum(FALL * band.deviation, 2 * fall), limits.max / 4)
    error = jnp.clip(loss - band.level, -most, LEARNED * band.deviation)
    falls = error < 0
    # An average of all losses at first, whose rises count less as they do later.
    rate = jnp.where(falls, _FALLING, _RISING)
    level = band.level + jnp.maximum(rate, rate / _FALLING / (losses + 1)) * error
    # Of the squares, and as a ratio, whose square cannot overflow.
    square = jnp.square(_WIDTH * jnp.clip(error / band.deviation, -1 / _WIDTH, LEARNED))
    deviation = band.deviation * jnp.sqrt(1 + _weight(count, loss.dtype) * (square - 1))
    # Not where the level is near zero, which so is no measure of the noise.
    lower = (level < band.lowest) & (level > deviation)
    deviation *= jnp.sqrt(jnp.where(lower, level / jnp.where(lower, band.lowest, 1), 1))
    # Never below the rounding of the loss itself, or it could not grow again.
    deviation = jnp.maximum(deviation, limits.eps * jnp.maximum(jnp.abs(loss), 1))
    anew = (level < band.base) | settled
    learned = band._replace(
        level=level,
        lowest=jnp.minimum(level, band.lowest),
        deviation=deviation,
        base=jnp.where(anew, level, band.base),
        base_deviation=jnp.where(anew, deviation, band.base_deviation),
    )
    return learned, jnp.maximum(0, -error)


def _around(loss: jax.Array, scale: jax.Array, gradient_norm: jax.Array) -> Band:
    """The band around a loss that is the first of its kind."""
    guess = _FIRST * jnp.minimum(jnp.abs(scale), np.finfo(loss.dtype).max)
    deviation = jnp.maximum(guess, 1e-3 * _FIRST)  # a first loss of zero tells nothing of its noise
    return Band(loss, loss, deviation, gradient_norm, base=loss, base_deviation=deviation)
