"""The optimizers, by name: those of this library, and Optax's, without and with the guard."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import optax

import salera_optax


class Recipe(NamedTuple):
    """How an optimizer is made.

    Attributes:
      factory: makes it from its hyperparameters.
      learning_rate: what it starts from when the user gives none.
      guarded: whether `page_hinkley` goes around it.
    """

    factory: Callable[..., optax.GradientTransformation]
    learning_rate: float
    guarded: bool = False


_OPTAX = {
    "sgd": Recipe(optax.sgd, 0.1),
    "nag": Recipe(partial(optax.sgd, momentum=0.9, nesterov=True), 0.01),
    "adagrad": Recipe(optax.adagrad, 0.01),
    "adam": Recipe(optax.adam, 0.001),
}

OPTIMIZERS: dict[str, Recipe] = {
    "salera": Recipe(salera_optax.salera, 0.01),
    "alera": Recipe(salera_optax.alera, 0.01),
    "spalera": Recipe(salera_optax.spalera, 0.1),
    "ag_adam": Recipe(salera_optax.ag_adam, 0.001),
    **_OPTAX,
    **{f"guarded-{name}": recipe._replace(guarded=True) for name, recipe in _OPTAX.items()},
}

GROUPS = {"leaf": None, "module": salera_optax.by_module, "all": "all"}
"""What shares a learning rate: the argument `groups` of the library, by name."""


def hyperparameters(names: Sequence[str], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Completes the hyperparameters of optimizers with the defaults of each.

    Args:
      names: some of `OPTIMIZERS`.
      given: what the user chose, by the names of the optimizers' arguments. Each goes to every
        optimizer that takes it.

    Returns:
      For each name all its hyperparameters, `learning_rate` included, as plain values.

    Raises:
      ValueError: if none of the optimizers takes one of those given.
    """
    defaults = [_defaults(OPTIMIZERS[name]) for name in names]
    for option in given:
        if not any(option in taken for taken in defaults):
            takers = [name for name, recipe in OPTIMIZERS.items() if option in _defaults(recipe)]
            raise ValueError(
                f"{' and '.join(names)} {_agree(names, 'takes', 'take')} no "
                f"--{option.replace('_', '-')}; {', '.join(takers)} "
                f"{_agree(takers, 'does', 'do')}."
            )
    return [
        taken | {option: value for option, value in given.items() if option in taken}
        for taken in defaults
    ]


def build(name: str, values: Mapping[str, Any]) -> optax.GradientTransformation:
    """Makes an optimizer from what `hyperparameters` gives for it."""
    recipe = OPTIMIZERS[name]
    arguments = dict(values)
    if arguments.get("groups") is not None:
        arguments["groups"] = GROUPS[arguments["groups"]]
    if not recipe.guarded:
        return recipe.factory(**arguments)
    guard = {option: arguments.pop(option) for option in _GUARD}
    return salera_optax.page_hinkley(recipe.factory(**arguments), **guard)


def _options(factory: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a factory but for its first, the learning rate or what is guarded."""
    _, *others = inspect.signature(factory).parameters.values()
    return {argument.name: argument.default for argument in others}


_GUARD = _options(salera_optax.page_hinkley)


def _defaults(recipe: Recipe) -> dict[str, Any]:
    guard = _GUARD if recipe.guarded else {}
    return {"learning_rate": recipe.learning_rate, **_options(recipe.factory), **guard}


def _agree(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
