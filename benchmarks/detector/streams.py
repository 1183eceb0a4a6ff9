"""Minibatch losses made up for the detectors alone: healthy ones, and ones that go wrong.

Every stream is a level with noise around it, in proportion to the level. The noises have mean 0
and standard deviation 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

FIRST, LAST, DESCENT = 2.3, 0.3, 300  # loss at the start and the end, time constant in steps
BAD_LOSS_AT = 2000  # step of the one bad loss of "after an alarm"
_MINIBATCH = 4  # examples, whose mean loss is the noise of that name

Noise = Callable[[jax.Array, int], jax.Array]


def _gaussian(key: jax.Array, steps: int) -> jax.Array:
    return jax.random.normal(key, (steps,))


def _student(key: jax.Array, steps: int) -> jax.Array:
    normal, *squares = jax.random.normal(key, (4, steps))
    scale = jnp.sqrt(jnp.square(jnp.stack(squares)).sum(0))
    return jnp.asarray(normal / scale)  # t(3) over its deviation


def _lognormal(key: jax.Array, steps: int) -> jax.Array:
    mean, variance = jnp.exp(0.5), jnp.e * (jnp.e - 1)
    return (jnp.exp(jax.random.normal(key, (steps,))) - mean) / jnp.sqrt(variance)


def _autoregressive(shocks: Noise, memory: float) -> Noise:
    """Correlated over 1 / (1 - memory) steps, as when similar examples follow one another."""

    def noise(key: jax.Array, steps: int) -> jax.Array:
        scaled = shocks(key, steps) * jnp.sqrt(1 - memory**2)
        return jnp.fft.irfft(  # a convolution with the powers of the memory
            jnp.fft.rfft(scaled, 2 * steps) * jnp.fft.rfft(memory ** jnp.arange(steps), 2 * steps)
        )[:steps]

    return noise


def _periodic(period: int) -> Noise:
    """A wave with a tenth of the variance as Gaussian noise, as when a data set is sorted."""

    def noise(key: jax.Array, steps: int) -> jax.Array:
        wave = jnp.sqrt(2 * 0.9) * jnp.sin(2 * jnp.pi * jnp.arange(steps) / period)
        return wave + jnp.sqrt(0.1) * jax.random.normal(key, (steps,))

    return noise


def _minibatch(key: jax.Array, steps: int) -> jax.Array:
    """Logistic losses of a few examples with Gaussian margins: nearly all small, some huge."""
    margins = 6 + 3 * jax.random.normal(key, (steps, _MINIBATCH))
    mean, deviation = 0.06429, 0.26371  # of one example, by numerical integration
    return (jax.nn.softplus(-margins).mean(1) - mean) * jnp.sqrt(_MINIBATCH) / deviation


NOISES: dict[str, Noise] = {
    "Gaussian": _gaussian,
    "Student t(3)": _student,
    "lognormal(1)": _lognormal,
    "AR(0.9)": _autoregressive(_gaussian, 0.9),
    "AR(0.99)": _autoregressive(_gaussian, 0.99),
    "AR(0.9), t(3)": _autoregressive(_student, 0.9),
    "period 100": _periodic(100),
    "period 1000": _periodic(1000),
    "minibatch of 4": _minibatch,
}


class Curve(NamedTuple):
    """A healthy loss without its noise.

    Attributes:
      level: its level at each of the steps, numbered from 0.
      noise: deviation of the noise, in units of the level.
    """

    level: Callable[[jax.Array], jax.Array]
    noise: float


def _descent(step: jax.Array) -> jax.Array:
    return LAST + (FIRST - LAST) * jnp.exp(-step / DESCENT)


CURVES = {
    "descent": Curve(_descent, 0.1),
    "slow descent": Curve(lambda step: FIRST * (1 + step / 50) ** -0.3, 0.1),
    "quiet descent": Curve(_descent, 0.02),
    "plateau": Curve(lambda step: jnp.full(step.shape, FIRST), 0.1),
    "noisy plateau": Curve(lambda step: jnp.full(step.shape, FIRST), 0.5),
    "after an alarm": Curve(
        lambda step: jnp.where(step == BAD_LOSS_AT, 100 * FIRST, _descent(step)), 0.1
    ),
}

Shape = Callable[[jax.Array], jax.Array]
JUMPS = (2, 3, 4, 5, 7, 10, 20, 50)  # deviations


def _jump(size: float) -> Shape:
    return lambda t: jnp.where(t >= 0, size, 0.0)


CHANGES: dict[str, Shape] = {
    **{f"jump {size}": _jump(size) for size in JUMPS},
    "ramp 0.1 a step": lambda t: 0.1 * jnp.maximum(t + 1, 0),
    "ramp 0.3 a step": lambda t: 0.3 * jnp.maximum(t + 1, 0),
    "x 1.5 a step": lambda t: jnp.where(t >= 0, 10 * (1.5 ** (jnp.clip(t, 0, 60) + 1) - 1), 0.0),
    "spike 20": lambda t: jnp.where(t == 0, 20.0, 0.0),
    "spike 1000": lambda t: jnp.where(t == 0, 1000.0, 0.0),
}
"""What is added, in deviations of the noise, as a function of the steps since the change."""


def healthy(key: jax.Array, curve: str, noise: str, streams: int, steps: int) -> jax.Array:
    """Losses that go well, in the shape (streams, steps).

    Args:
      key: of the noise.
      curve: one of `CURVES`.
      noise: one of `NOISES`.
      streams: how many.
      steps: of each.
    """
    level = CURVES[curve].level(jnp.arange(steps))
    keys = jax.random.split(key, streams)
    values = jax.vmap(NOISES[noise], (0, None))(keys, steps)
    return level * (1 + CURVES[curve].noise * values)


def changed(key: jax.Array, change: str, when: int, streams: int, steps: int) -> jax.Array:
    """Losses that descend with Gaussian noise and go wrong, in the shape (streams, steps).

    Args:
      key: of the noise.
      change: one of `CHANGES`.
      when: the step of the change, from 0.
      streams: how many.
      steps: of each.
    """
    time = jnp.arange(steps)
    deviation = CURVES["descent"].noise * _descent(time)
    losses = healthy(key, "descent", "Gaussian", streams, steps)
    return losses + deviation[when] * CHANGES[change](time - when)
