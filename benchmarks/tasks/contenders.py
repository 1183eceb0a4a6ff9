"""The optimizers that are compared: each with its default rate, and the rates it is tried from.

All but the rate is as its authors, or Optax, have it, weight decay included.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from optax import contrib

import salera_optax
from benchmarks.tasks.adamg import adamg

FACTORS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""The rates, as multiples of the default, where that is a rate in the units of the parameters."""
FACTORS_AROUND_ONE = (0.01, 0.1, 0.3, 1.0, 10.0, 100.0)
"""The same for those that find their rate themselves and take a factor of it, which is 1."""


class Contender(NamedTuple):
    """An optimizer.

    Attributes:
      make: makes it from a rate and the number of steps of the run.
      rate: its default rate.
      factors: what the default is multiplied by, for all rates to try.
      averaged: makes of its state and the parameters those to evaluate, None for the parameters.
    """

    make: Callable[[Any, int], optax.GradientTransformation]
    rate: float
    factors: tuple[float, ...] = FACTORS
    averaged: Callable[[Any, Any], Any] | None = None

    @property
    def rates(self) -> list[float]:
        """The rates to try, without the digits that rounding adds."""
        return [float(f"{self.rate * factor:.3g}") for factor in self.factors]


def _warm_up_and_cosine(rate: Any, steps: int) -> optax.GradientTransformation:
    """AdamW whose rate rises over the first tenth of the run, and falls to zero at its end."""
    warm_up = max(1, steps // 10)

    def schedule(step: Any) -> Any:
        progress = jnp.clip((step - warm_up) / (steps - warm_up), 0, 1)
        return rate * jnp.minimum((step + 1) / warm_up, (1 + jnp.cos(jnp.pi * progress)) / 2)

    return optax.adamw(schedule)


def _parameter_free(factory: Callable[[Any], optax.GradientTransformation]) -> Contender:
    return Contender(lambda rate, _: factory(rate), 1.0, FACTORS_AROUND_ONE)


def _from(factory: Callable[[Any], optax.GradientTransformation], default: float) -> Contender:
    return Contender(lambda rate, _: factory(rate), default)


CONTENDERS: dict[str, Contender] = {
    "salera_adamw": _from(salera_optax.salera_adamw, 1e-4),
    "salera_adamw, averaged": _from(
        lambda rate: salera_optax.salera_adamw(rate, average=True), 1e-4
    )._replace(averaged=salera_optax.eval_params),
    "salera": _from(salera_optax.salera, 0.01),
    "ag_adam": _from(salera_optax.ag_adam, 1e-4),
    "adamw": _from(optax.adamw, 0.001),
    "adamw, cosine": Contender(_warm_up_and_cosine, 0.001),
    "nadamw": _from(optax.nadamw, 0.001),
    "sgd, momentum": _from(lambda rate: optax.sgd(rate, momentum=0.9), 0.01),
    "muon": _from(contrib.muon, 0.02),
    "schedule-free adamw": _from(contrib.schedule_free_adamw, 0.0025)._replace(
        averaged=contrib.schedule_free_eval_params
    ),
    "momo_adam": _from(contrib.momo_adam, 0.01),
    "prodigy": _parameter_free(contrib.prodigy),
    "dadapt_adamw": _parameter_free(contrib.dadapt_adamw),
    "mechanic": _parameter_free(lambda rate: contrib.mechanize(optax.adam(rate))),
    "dowg": _parameter_free(contrib.dowg),
    "cocob": _parameter_free(contrib.cocob),
    "adamg": _parameter_free(adamg),
}
"""By name, ours first."""
