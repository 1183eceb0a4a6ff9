"""The optimizers, by name: those of this library, and Optax's, without and with the guard."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import optax
from optax import contrib

import salera_optax


class Recipe(NamedTuple):
    """How an optimizer is made.

    Attributes:
      factory: makes it from its hyperparameters; among them may be `total_steps`, of the run, and
        `minibatch_ratio`, the size of a minibatch over that of the training set.
      learning_rate: what it starts from when the user gives none.
      law: of the rate, with the gain, made from its own hyperparameters; None where there is none.
      guarded: whether `page_hinkley` goes around it.
      averaged: makes of its state and the parameters those to evaluate, None for the parameters.
    """

    factory: Callable[..., optax.GradientTransformation]
    learning_rate: float
    law: Callable[..., Any] | None = None
    guarded: bool = False
    averaged: Callable[[Any, Any], Any] | None = None


PLAIN: dict[str, Any] = {"momentum": None, "nesterov": False, "clip": None}
"""What `alera` and `salera` have beyond the paper, left out."""


def _published_salera(
    learning_rate: float, alpha: float = 0.01, gain: float = 3e-6, *, minibatch_ratio: float
) -> optax.GradientTransformation:
    """SALERA as its authors' code runs it: an alarm skips the step and halves, no more."""
    return salera_optax.salera(
        learning_rate,
        alpha=alpha,
        law=salera_optax.score(gain, std="authors"),
        detector=salera_optax.published(minibatch_ratio),
        rollback=False,
        reset_path=False,
        groups=salera_optax.by_module,
        **PLAIN,
    )


def _cosine_nag(
    learning_rate: float, momentum: float = 0.9, *, total_steps: int
) -> optax.GradientTransformation:
    """The rate falls to zero, along a cosine, at the end of the run."""
    schedule = optax.cosine_decay_schedule(learning_rate, total_steps)
    return optax.sgd(schedule, momentum, nesterov=True)


def _cosine_adam(
    learning_rate: float, b1: float = 0.9, b2: float = 0.999, *, total_steps: int
) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, total_steps), b1, b2)


def _mechanic(learning_rate: float) -> optax.GradientTransformation:
    return contrib.mechanize(optax.adam(learning_rate))


def _score(gain: float) -> Callable[..., Any]:
    """The paper's law with that gain unless the user gives another."""
    return partial(salera_optax.score, gain=gain)


_OPTAX = {
    "sgd": Recipe(optax.sgd, 0.1),
    "nag": Recipe(partial(optax.sgd, momentum=0.9, nesterov=True), 0.01),
    "adagrad": Recipe(optax.adagrad, 0.01),
    "adam": Recipe(optax.adam, 0.001),
}

OPTIMIZERS: dict[str, Recipe] = {
    "salera_adamw": Recipe(salera_optax.salera_adamw, 1e-4, partial(salera_optax.ratio, rest=-0.1)),
    "salera": Recipe(salera_optax.salera, 0.01, salera_optax.ratio),
    "alera": Recipe(salera_optax.alera, 0.01, salera_optax.ratio),
    "ag_adam": Recipe(salera_optax.ag_adam, 1e-4, partial(salera_optax.ratio, rest=-0.1)),
    "spalera": Recipe(salera_optax.spalera, 0.1, _score(2.11e-8)),
    # The paper's: its law, and SALERA also as its authors' code runs it.
    "paper-salera": Recipe(partial(salera_optax.salera, **PLAIN), 0.01, _score(2.12e-6)),
    "paper-alera": Recipe(partial(salera_optax.alera, **PLAIN), 0.01, _score(2.12e-6)),
    "paper-ag_adam": Recipe(
        partial(salera_optax.ag_adam, alpha=0.001, b2=0.999, nesterov=False, weight_decay=0.0),
        0.001,
        _score(2.12e-6),
    ),
    "published-salera": Recipe(_published_salera, 0.01),
    **_OPTAX,
    **{f"guarded-{name}": recipe._replace(guarded=True) for name, recipe in _OPTAX.items()},
    "cosine-nag": Recipe(_cosine_nag, 0.01),
    "cosine-adam": Recipe(_cosine_adam, 0.001),
    # The rates that their authors recommend.
    "prodigy": Recipe(contrib.prodigy, 1.0),
    "dog": Recipe(contrib.dog, 1.0),
    "dowg": Recipe(contrib.dowg, 1.0),
    "mechanic": Recipe(_mechanic, 1.0),
    "schedule-free-sgd": Recipe(
        contrib.schedule_free_sgd, 1.0, averaged=contrib.schedule_free_eval_params
    ),
    "schedule-free-adamw": Recipe(
        contrib.schedule_free_adamw, 0.0025, averaged=contrib.schedule_free_eval_params
    ),
    "momo": Recipe(contrib.momo, 1.0),
}

_OF_THE_RUN = ("total_steps", "minibatch_ratio")
# Arguments that are no hyperparameters; the rate has its default in the recipe.
_NOT_CHOSEN = (*_OF_THE_RUN, "learning_rate", "law", "inner")

GROUPS = {"leaf": None, "module": salera_optax.by_module, "all": "all"}
"""What shares a learning rate: the argument `groups` of the library, by name."""


DETECTORS = {"robust": salera_optax.robust(), "published": salera_optax.published()}
"""The tests of the guard, by name."""


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


def build(
    name: str, values: Mapping[str, Any], *, total_steps: int, minibatch_ratio: float
) -> optax.GradientTransformation:
    """Makes an optimizer.

    Args:
      name: one of `OPTIMIZERS`.
      values: its hyperparameters, as `hyperparameters` gives them; those left out have the
        defaults of the factory.
      total_steps: length of the run, for those with a schedule.
      minibatch_ratio: size of a minibatch over that of the training set, for those that use it.

    Returns:
      The optimizer.

    Raises:
      ValueError, TypeError: if it refuses a value.
    """
    recipe = OPTIMIZERS[name]
    arguments = dict(values)
    if arguments.get("groups") is not None:
        arguments["groups"] = GROUPS[arguments["groups"]]
    if arguments.get("detector") is not None:
        arguments["detector"] = DETECTORS[arguments["detector"]]
    of_guard = [option for option in _GUARD if recipe.guarded and option in arguments]
    guard = {option: arguments.pop(option) for option in of_guard}
    if recipe.law is not None:
        of_law = [option for option in _options(recipe.law) if option in arguments]
        arguments["law"] = recipe.law(**{option: arguments.pop(option) for option in of_law})
    run = {"total_steps": total_steps, "minibatch_ratio": minibatch_ratio}
    taken = inspect.signature(recipe.factory).parameters
    tx = recipe.factory(**arguments, **{key: run[key] for key in _OF_THE_RUN if key in taken})
    return salera_optax.page_hinkley(tx, **guard) if recipe.guarded else tx


def _options(factory: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that are for the user to choose, with their defaults."""
    return {
        argument.name: argument.default
        for argument in inspect.signature(factory).parameters.values()
        if argument.kind is not argument.VAR_KEYWORD and argument.name not in _NOT_CHOSEN
    }


_GUARD = _options(salera_optax.page_hinkley)


def _defaults(recipe: Recipe) -> dict[str, Any]:
    guard = _GUARD if recipe.guarded else {}
    law = _options(recipe.law) if recipe.law is not None else {}
    return {"learning_rate": recipe.learning_rate, **law, **_options(recipe.factory), **guard}


def _agree(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
