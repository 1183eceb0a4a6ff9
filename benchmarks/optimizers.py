"""The optimizers, by name: those of this library, and Optax's for comparison."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import optax

import salera_optax


class Recipe(NamedTuple):
    """How an optimizer is made, and the learning rate it starts from when the user gives none."""

    factory: Callable[..., optax.GradientTransformation]
    learning_rate: float


OPTIMIZERS: dict[str, Recipe] = {
    "salera": Recipe(salera_optax.salera, 0.01),
    "alera": Recipe(salera_optax.alera, 0.01),
    "spalera": Recipe(salera_optax.spalera, 0.1),
    "ag_adam": Recipe(salera_optax.ag_adam, 0.001),
    "sgd": Recipe(optax.sgd, 0.1),
    "nag": Recipe(partial(optax.sgd, momentum=0.9, nesterov=True), 0.01),
    "adagrad": Recipe(optax.adagrad, 0.01),
    "adam": Recipe(optax.adam, 0.001),
}

GROUPS = {"leaf": None, "module": salera_optax.by_module, "all": "all"}
"""What shares a learning rate: the argument `groups` of the library, by name."""


def hyperparameters(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Completes the hyperparameters of an optimizer with its defaults.

    Args:
      name: one of `OPTIMIZERS`.
      given: what the user chose, by the names of the optimizer's arguments.

    Returns:
      Every hyperparameter of the optimizer, `learning_rate` included, as plain values.

    Raises:
      ValueError: if the optimizer does not take one of those given.
    """
    recipe = OPTIMIZERS[name]
    taken = inspect.signature(recipe.factory).parameters
    for option in given:
        if option not in taken:
            takers = [
                other
                for other, (factory, _) in OPTIMIZERS.items()
                if option in inspect.signature(factory).parameters
            ]
            raise ValueError(
                f"{name} takes no --{option.replace('_', '-')}; {', '.join(takers)} "
                f"{'does' if len(takers) == 1 else 'do'}."
            )
    defaults = {key: value.default for key, value in taken.items() if key != "learning_rate"}
    return {"learning_rate": recipe.learning_rate, **defaults, **given}


def build(name: str, values: Mapping[str, Any]) -> optax.GradientTransformation:
    """Makes an optimizer from the result of `hyperparameters`."""
    arguments = dict(values)
    if arguments.get("groups") is not None:
        arguments["groups"] = GROUPS[arguments["groups"]]
    return OPTIMIZERS[name].factory(**arguments)
