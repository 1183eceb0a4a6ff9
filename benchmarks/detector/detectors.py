"""Detectors of a loss that goes wrong: those of this library, and others to compare them with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import salera_optax
from benchmarks.outliers import stands_out

Alarms = npt.NDArray[np.bool_]
_AT_ONCE = 1024  # streams in one program


class StreamDetector(NamedTuple):
    """How a detector is run over streams of losses.

    Attributes:
      alarms: the alarms in losses, both of the shape (streams, steps).
      share: the share of the streams that it is given; less than 1 for those that are slow.
    """

    alarms: Callable[[npt.NDArray[np.float32]], Alarms]
    share: float = 1.0


Step = Callable[[Any, jax.Array], tuple[Any, jax.Array]]


def _scanned(init: Callable[[], Any], step: Step) -> StreamDetector:
    """Of a detector in JAX: its first state, and how it takes the next loss of one stream."""

    @jax.jit
    def run(losses: jax.Array) -> jax.Array:
        return jax.vmap(lambda stream: jax.lax.scan(step, init(), stream)[1])(losses)

    def alarms(losses: npt.NDArray[np.float32]) -> Alarms:
        parts = range(0, len(losses), _AT_ONCE)
        return np.concatenate([np.asarray(run(losses[at : at + _AT_ONCE])) for at in parts])

    return StreamDetector(alarms)


def _ours(detector: salera_optax.Detector) -> StreamDetector:
    """The library's, with a gradient that never stands out."""

    def step(state: Any, loss: jax.Array) -> tuple[Any, jax.Array]:
        verdict, state = detector.observe(state, loss, jnp.ones(()))
        return state, verdict.alarm

    return _scanned(lambda: detector.init(jnp.float32), step)


def _deviations(window: int = 128) -> StreamDetector:
    """Mean + 6 deviations over a window: what OLMo-core, MaxText and Levanter skip.

    As there, the loss itself does not count, the losses skipped do. (Their test of the gradient is
    left out: there is no gradient here.)
    """

    def step(state: tuple[jax.Array, jax.Array], loss: jax.Array) -> tuple[Any, jax.Array]:
        losses, count = state
        alarm = stands_out(loss, losses, count)
        return (losses.at[count % window].set(loss), count + 1), alarm

    return _scanned(lambda: (jnp.zeros(window), jnp.zeros((), jnp.int32)), step)


def _cusum(slack: float = 2, level: float = 17, clip: float = 8) -> StreamDetector:
    """A plain CUSUM on the loss in units of its running mean absolute deviation."""

    def step(state: tuple[jax.Array, ...], loss: jax.Array) -> tuple[Any, jax.Array]:
        since, seen, mean, scale, statistic = state
        mean = jnp.where(since == 0, loss, mean)
        known = jnp.where(seen > 1, scale, jnp.inf)
        z = jnp.clip((loss - mean) / jnp.maximum(1.25 * known, 1e-12), -clip, clip)
        statistic = jnp.maximum(0, statistic + z - slack)
        alarm = statistic > level
        bounded = jnp.where(seen > 1, 1.25 * known * z, loss - mean)
        mean = mean + jnp.maximum(0.05, 1 / (since + 1)) * bounded
        scale = scale + jnp.maximum(0.01, 1 / jnp.maximum(seen, 1)) * (jnp.abs(bounded) - scale)
        since = jnp.where(alarm, 0, since + 1)
        return (since, seen + 1, mean, scale, jnp.where(alarm, 0, statistic)), alarm

    return _scanned(lambda: tuple(jnp.zeros(()) for _ in range(5)), step)


def _river(name: str, share: float, **arguments: Any) -> StreamDetector:
    """One of the package river, a stream after the other; only a mean that rises is an alarm."""

    def alarms(losses: npt.NDArray[np.float32]) -> Alarms:
        from river import drift  # noqa: PLC0415  (slow to import)

        found = np.zeros(losses.shape, bool)
        for stream, row in zip(losses, found, strict=True):
            detector, before = getattr(drift, name)(**arguments), 0.0
            for step, loss in enumerate(stream.tolist()):
                detector.update(loss)
                after = getattr(detector, "estimation", np.inf)
                row[step] = detector.drift_detected and after > before
                before = after if detector.drift_detected or step % 32 == 0 else before
        return found

    return StreamDetector(alarms, share)


COMPARED: dict[str, StreamDetector] = {
    "robust": _ours(salera_optax.robust()),
    "published, smoothing 0.01": _ours(salera_optax.published(0.01)),
    "published, smoothing 0.1": _ours(salera_optax.published(0.1)),
    "published, smoothing 1": _ours(salera_optax.published(1.0)),
    "mean + 6 deviations of 128": _deviations(),
    "CUSUM": _cusum(),
    "river PageHinkley": _river("PageHinkley", 1 / 16, mode="up"),
    "river ADWIN": _river("ADWIN", 1 / 16),
}
"""By name, as the table and the picture show them; the first is this library's default."""
