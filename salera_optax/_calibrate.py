"""What a detector makes of recorded losses: false alarms, and delay of an alarm."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from salera_optax._arrays import select
from salera_optax._detectors import Detector
from salera_optax._robust import robust
from salera_optax._validation import check_detector

_RISES = (0.1, 0.3, 1.0, 3.0)
_STARTS = 32  # places of each run where a rise is tried
_PATIENCE = 100  # losses within which it is to be noticed


class Calibration(NamedTuple):
    """What `calibrate` finds, for R rises.

    Attributes:
      rises: (R,), those that were tried, in the units of the loss.
      false_alarms: alarms in the recorded losses, per loss.
      missed: (R,), share of the rises that were not noticed within 100 losses, in [0, 1].
      delay: (R,), mean number of losses from the first raised one to the alarm where there was one
        (0: the first raised one raises it); NaN where all were missed.
    """

    rises: npt.NDArray[np.float64]
    false_alarms: float
    missed: npt.NDArray[np.float64]
    delay: npt.NDArray[np.float64]


def calibrate(
    losses: ArrayLike | Sequence[Sequence[float]],
    detector: Detector | None = None,
    *,
    rises: ArrayLike | Sequence[float] = _RISES,
) -> Calibration:
    """Replays recorded losses, to see what a detector of `page_hinkley` is worth on them.

    Give it the minibatch losses of runs that went well: every alarm in them is a false one. Then
    each rise is added to the losses from some step on, at 32 places of the second half of each run,
    and what the detector makes of it is the delay. The replay knows no rollback: in a run an alarm
    puts the parameters back. Doubts by the gradient are left out, for there is none.

    Args:
      losses: real, of the shape (steps,) or (runs, steps), at least 2 steps; those that are not
        finite are left out, so that shorter runs may be filled up with NaN.
      detector: `robust()`, the default, `published()`, or your own.
      rises: one or several, of the shape (R,), finite and greater than 0, in the units of the loss.

    Returns:
      A `Calibration`.

    Raises:
      ValueError: if an argument is out of its range or not of its shape.
      TypeError: if `losses` are not real numbers, or `detector` is none.

    Example:
      >>> import numpy as np, salera_optax
      >>> steps = np.arange(2000)
      >>> noise = np.random.default_rng(0).normal(size=2000)
      >>> losses = (0.3 + 2 * np.exp(-steps / 300)) * (1 + 0.1 * noise)
      >>> found = calibrate(losses, rises=[0.1, 0.3, 1])
      >>> found.false_alarms
      0.0
      >>> found.missed.tolist(), found.delay.round(1).tolist()
      ([1.0, 0.0, 0.0], [nan, 2.9, 2.0])
    """
    array = np.asarray(losses)
    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"losses must be real numbers, got dtype {array.dtype}.")
    if array.ndim not in (1, 2) or array.shape[-1] < 2 or not array.size:
        raise ValueError(
            "losses must have the shape (steps,) or (runs, steps) with at least 2 steps, "
            f"got {array.shape}."
        )
    check_detector(detector)
    tried = _positive("rises", rises)
    runs = np.atleast_2d(array).astype(np.float32)
    chosen = robust() if detector is None else detector
    alarms, tries, noticed, after = map(
        np.asarray, _replay_all(runs, tried.astype(np.float32), chosen)
    )
    count = noticed.sum((0, 2))
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where nothing was noticed
        missed = 1 - count / tries.sum((0, 2))
        delay = np.where(noticed, after, 0).sum((0, 2)) / count
    return Calibration(tried, float(alarms.sum() / np.isfinite(runs).sum()), missed, delay)


@functools.partial(jax.jit, static_argnames="detector")
def _replay_all(runs: jax.Array, rises: jax.Array, detector: Detector) -> tuple[jax.Array, ...]:
    """Alarms, (runs,); whether a rise was tried, was noticed, and when, (runs, R, 32) each."""

    def replay(state: Any, losses: jax.Array) -> tuple[Any, jax.Array]:
        """The states before each loss, and the alarms."""

        def body(state: Any, loss: jax.Array) -> tuple[Any, tuple[Any, jax.Array]]:
            finite = jnp.isfinite(loss)
            verdict, new = detector.observe(state, jnp.where(finite, loss, 1), jnp.ones_like(loss))
            return select(finite, new, state), (state, verdict.alarm & finite)

        states, alarms = jax.lax.scan(body, state, losses)[1]
        return states, alarms

    def one(losses: jax.Array) -> tuple[jax.Array, ...]:
        states, alarms = replay(detector.init(losses.dtype), losses)
        length = min(_PATIENCE, losses.size // 2)
        starts = jnp.linspace(losses.size // 2, losses.size - length, _STARTS).astype(jnp.int32)

        def raised(rise: jax.Array, start: jax.Array) -> tuple[jax.Array, ...]:
            state = jax.tree.map(lambda field: field[start], states)
            part = jax.lax.dynamic_slice(losses, (start,), (length,))
            found = replay(state, part + rise)[1]
            tried = jnp.isfinite(part[0])
            return tried, tried & found.any(), found.argmax()

        return alarms.sum(), *_for_each(raised, rises, starts)

    return jax.vmap(one)(runs)


def _for_each(
    function: Callable[..., tuple[jax.Array, ...]], first: jax.Array, second: jax.Array
) -> tuple[jax.Array, ...]:
    """The function of every pair, the first along the first axis."""
    return jax.vmap(jax.vmap(function, (None, 0)), (0, None))(first, second)


def _positive(name: str, values: ArrayLike | Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(values, np.float64))
    if array.ndim != 1 or not array.size or not all(0 < value < math.inf for value in array):
        raise ValueError(
            f"{name} must be one or several numbers, finite and greater than 0, got {values!r}."
        )
    return array
