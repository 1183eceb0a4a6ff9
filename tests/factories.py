"""The factories whose messages `test_errors_*.py` read, by the arguments that they take."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
import pytest

import salera_optax


def guarded(**arguments: Any) -> optax.GradientTransformationExtraArgs:
    """The bare wrapper, around plain gradient descent."""
    return salera_optax.page_hinkley(optax.sgd(0.1), **arguments)


def alias(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A ready-made optimizer with its learning rate filled in."""
    return lambda **arguments: factory(0.1, **arguments)


ALERA_FACTORIES: dict[str, Callable[..., Any]] = {
    "scale_by_alera": salera_optax.scale_by_alera,
    "scale_by_parameterwise_alera": salera_optax.scale_by_parameterwise_alera,
    "alera": alias(salera_optax.alera),
    "salera": alias(salera_optax.salera),
    "spalera": alias(salera_optax.spalera),
    "ag_adam": alias(salera_optax.ag_adam),
    "salera_adamw": salera_optax.salera_adamw,
}
GUARD_FACTORIES: dict[str, Callable[..., Any]] = {
    "page_hinkley": guarded,
    "salera": alias(salera_optax.salera),
    "spalera": alias(salera_optax.spalera),
    "salera_adamw": salera_optax.salera_adamw,
}
GROUPED_FACTORIES = {
    name: ALERA_FACTORIES[name]
    for name in ("scale_by_alera", "alera", "salera", "ag_adam", "salera_adamw")
}
BOTH = {**ALERA_FACTORIES, **GUARD_FACTORIES}
ALIASES = (
    salera_optax.alera,
    salera_optax.salera,
    salera_optax.spalera,
    salera_optax.ag_adam,
    salera_optax.salera_adamw,
)


def params() -> dict[str, Any]:
    """Two modules of a model."""
    return {
        "Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((2,))},
        "Dense_1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))},
    }


def each(factories: dict[str, Callable[..., Any]]) -> pytest.MarkDecorator:
    """Cross a test with factories that need no further argument."""
    return pytest.mark.parametrize("make", factories.values(), ids=factories.keys())
