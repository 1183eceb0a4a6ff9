"""What a threshold of the guard costs on recorded losses: false alarms, and delay of an alarm."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from salera_optax import _detector
from salera_optax._detector import DETECTORS, Detector
from salera_optax._validation import check_choice, check_number

_THRESHOLDS = (0.01, 0.03, 0.1, 0.3, 1.0)
_RISES = (0.1, 0.3, 1.0, 3.0)
_STARTS = 32  # places of each run where a rise is tried
_PATIENCE = 100  # losses within which it is to be noticed


class Calibration(NamedTuple):
    """What `calibrate` finds, NumPy arrays; T thresholds, R rises.

    Attributes:
      thresholds: (T,), those that were tried.
      rises: (R,), those that were tried, in the units of the loss.
      false_alarms: (T,), alarms in the recorded losses, per loss.
      missed: (T, R), share of the rises that were not noticed within 100 losses, in [0, 1].
      delay: (T, R), mean number of losses from the first raised one to the alarm where there was
        one (0: the first raised one raises it); NaN where all were missed.
    """

    thresholds: npt.NDArray[np.float64]
    rises: npt.NDArray[np.float64]
    false_alarms: npt.NDArray[np.float64]
    missed: npt.NDArray[np.float64]
    delay: npt.NDArray[np.float64]


def calibrate(
    losses: ArrayLike | Sequence[Sequence[float]],
    *,
    thresholds: ArrayLike | Sequence[float] = _THRESHOLDS,
    rises: ArrayLike | Sequence[float] = _RISES,
    smoothing: float = 0.1,
    detector: Detector = "robust",
) -> Calibration:
    """Replays recorded losses, to choose the `threshold` of `page_hinkley` and `salera`.

    Give it the minibatch losses of runs that went well: every alarm in them is a false one. Then
    each rise is added to the losses from some step on, at 32 places of the second half of each run,
    and what the detector makes of it is the delay. The replay knows no rollback: in a run an alarm
    puts the parameters back. Alarms by the gradient are left out, for there is none.

    Args:
      losses: real, of the shape (steps,) or (runs, steps), at least 2 steps; those that are not
        finite are left out, so that shorter runs may be filled up with NaN.
      thresholds: one or several, of the shape (T,), finite and greater than 0.
      rises: one or several, of the shape (R,), finite and greater than 0, in the units of the loss.
      smoothing: of the published test, in (0, 1].
      detector: "robust" or "published", see `page_hinkley`.

    Returns:
      A `Calibration`.

    Raises:
      ValueError: if an argument is out of its range or not of its shape.
      TypeError: if `losses` are not real numbers.

    Example:
      >>> import numpy as np, salera_optax
      >>> steps = np.arange(2000)
      >>> noise = np.random.default_rng(0).normal(size=2000)
      >>> losses = (0.3 + 2 * np.exp(-steps / 300)) * (1 + 0.1 * noise)
      >>> found = calibrate(losses, thresholds=[0.1, 1], rises=[0.1, 1, 3])
      >>> found.false_alarms.tolist()
      [0.0, 0.0]
      >>> found.missed.tolist()
      [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
      >>> found.delay.round(1).tolist()
      [[nan, 9.4, 0.0], [nan, 15.5, 0.0]]
    """
    array = np.asarray(losses)
    if not np.issubdtype(array.dtype, np.floating) and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"losses must be real numbers, got dtype {array.dtype}.")
    if array.ndim not in (1, 2) or array.shape[-1] < 2 or not array.size:
        raise ValueError(
            "losses must have the shape (steps,) or (runs, steps) with at least 2 steps, "
            f"got {array.shape}."
        )
    tried = _positive("thresholds", thresholds), _positive("rises", rises)
    check_number("smoothing", smoothing, lambda s: 0 < s <= 1, "in (0, 1]")
    check_choice("detector", detector, DETECTORS)
    runs = np.atleast_2d(array).astype(np.float32)
    single = (values.astype(np.float32) for values in tried)
    alarms, tries, noticed, after = map(
        np.asarray, _replay_all(runs, *single, smoothing=smoothing, detector=detector)
    )
    count = noticed.sum((1, 3))
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where nothing was noticed
        missed = 1 - count / tries.sum((1, 3))
        delay = np.where(noticed, after, 0).sum((1, 3)) / count
    return Calibration(*tried, alarms.sum(1) / np.isfinite(runs).sum(), missed, delay)


@functools.partial(jax.jit, static_argnames="detector")
def _replay_all(
    runs: jax.Array, thresholds: jax.Array, rises: jax.Array, smoothing: float, detector: Detector
) -> tuple[jax.Array, ...]:
    """Alarms, (T, runs); whether a rise was tried, was noticed, and when, (T, runs, R, 32) each."""

    def replay(
        state: _detector.DetectorState, losses: jax.Array, threshold: jax.Array
    ) -> tuple[_detector.DetectorState, jax.Array]:
        """The states before each loss, and the alarms."""

        def body(
            state: _detector.DetectorState, loss: jax.Array
        ) -> tuple[_detector.DetectorState, tuple[_detector.DetectorState, jax.Array]]:
            verdict, new = _detector.observe(
                state, loss, jnp.ones_like(loss), smoothing, threshold, detector, rollback=True
            )
            kept = jax.tree.map(lambda s, n: jnp.where(verdict.nonfinite, s, n), state, new)
            return kept, (state, verdict.catastrophe | verdict.outlier)

        states, alarms = jax.lax.scan(body, state, losses)[1]
        return states, alarms

    def one(threshold: jax.Array, losses: jax.Array) -> tuple[jax.Array, ...]:
        states, alarms = replay(_detector.init(losses.dtype), losses, threshold)
        length = min(_PATIENCE, losses.size // 2)
        starts = jnp.linspace(losses.size // 2, losses.size - length, _STARTS).astype(jnp.int32)

        def raised(rise: jax.Array, start: jax.Array) -> tuple[jax.Array, ...]:
            state = jax.tree.map(lambda field: field[start], states)
            part = jax.lax.dynamic_slice(losses, (start,), (length,))
            found = replay(state, part + rise, threshold)[1]
            tried = jnp.isfinite(part[0])
            return tried, tried & found.any(), found.argmax()

        return alarms.sum(), *_for_each(raised, rises, starts)

    return _for_each(one, thresholds, runs)


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
