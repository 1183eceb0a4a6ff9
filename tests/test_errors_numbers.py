"""A number out of its range or of the wrong kind is named with its range and what came."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from factories import ALERA_FACTORIES, ALIASES, GUARD_FACTORIES, guarded, params

import salera_optax

NAN, INF = float("nan"), float("inf")


def detected(**numbers: Any) -> optax.GradientTransformationExtraArgs:
    """The bare wrapper with the paper's detector."""
    return guarded(detector=salera_optax.published(**numbers))


# The factories of what has the two numbers of the paper's detector.
DETECTOR_FACTORIES: dict[str, Callable[..., Any]] = {
    "published": detected,
}
LAWS: dict[str, Callable[..., Any]] = {
    "ratio": lambda gain: salera_optax.scale_by_alera(law=salera_optax.ratio(gain)),
    "score": lambda gain: salera_optax.scale_by_alera(law=salera_optax.score(gain)),
    "score, one rate per coordinate": lambda gain: salera_optax.scale_by_parameterwise_alera(
        law=salera_optax.score(gain, "authors")
    ),
}


def _resting(rest: Any) -> Any:
    return salera_optax.scale_by_alera(law=salera_optax.ratio(rest=rest))


HALF_OPEN = r"in \(0, 1\]"
NOT_NEGATIVE = r"finite and at least 0"
POSITIVE = r"finite and greater than 0"

# Of every numeric argument: its range, numbers outside, and numbers at its ends.
RANGES: dict[str, tuple[str, list[float], list[float]]] = {
    "alpha": (HALF_OPEN, [0.0, -0.1, 1.5, NAN, INF], [1.0, 1, 1e-9]),
    "gain": (NOT_NEGATIVE, [-1e-6, NAN, INF, -INF], [0.0, 0]),
    "rest": ("finite", [NAN, INF, -INF], [0.0, -3, 2.0]),
    "eps": (NOT_NEGATIVE, [-1e-6, NAN, INF], [0.0, 0]),
    "smoothing": (HALF_OPEN, [0.0, -0.1, 1.5, NAN, INF], [1.0, 1, 1e-9]),
    "threshold": (POSITIVE, [0.0, -0.1, NAN, INF], [1e-9, 1]),
    "factor": (HALF_OPEN, [0.0, -0.5, 2.0, NAN, INF], [1.0, 1, 1e-9]),
}
NUMBERS = [
    (factory, make, name)
    for factories, names in (
        (ALERA_FACTORIES, ("alpha", "eps")),
        (LAWS, ("gain",)),
        ({"ratio": _resting}, ("rest",)),
        (GUARD_FACTORIES, ("factor",)),
        (DETECTOR_FACTORIES, ("smoothing", "threshold")),
    )
    for factory, make in factories.items()
    for name in names
    if name != "eps" or "adam" not in factory  # It is Adam's, which Optax does not check.
]
every_number = pytest.mark.parametrize(
    ("make", "name"),
    [pytest.param(make, name, id=f"{factory}-{name}") for factory, make, name in NUMBERS],
)


@pytest.mark.parametrize(
    ("make", "name", "number"),
    [
        pytest.param(make, name, number, id=f"{factory}-{name}-{number}")
        for factory, make, name in NUMBERS
        for number in RANGES[name][1]
    ],
)
def test_number_out_of_range_is_named_with_its_range_and_its_value(
    make: Callable[..., Any], name: str, number: float
) -> None:
    match = rf"\b{name} must be {RANGES[name][0]}, got {re.escape(str(number))}"
    with pytest.raises(ValueError, match=match):
        make(**{name: number})


@every_number
@pytest.mark.parametrize("wrong", ["0.1", [0.1, 0.2], {}, None], ids=repr)
def test_number_of_the_wrong_kind_is_named_and_shown(
    make: Callable[..., Any], name: str, wrong: Any
) -> None:
    with pytest.raises(TypeError, match=rf"\b{name} must be a number .*{re.escape(repr(wrong))}"):
        make(**{name: wrong})


@every_number
def test_ends_of_the_ranges_are_accepted(make: Callable[..., Any], name: str) -> None:
    tree = params()
    for number in RANGES[name][2]:
        tx = make(**{name: number})
        update = functools.partial(tx.update, value=1.0)
        updates, _ = jax.eval_shape(update, tree, tx.init(tree), tree)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, tree)


@every_number
def test_traced_hyperparameter_skips_the_checks(make: Callable[..., Any], name: str) -> None:
    def update(number: jax.Array, tree: Any) -> Any:
        tx = make(**{name: number})
        return tx.update(tree, tx.init(tree), tree, value=1.0)

    jax.eval_shape(update, jnp.asarray(-1.0), params())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(salera_optax.scale_by_alera, "alpha", id="alpha"),
        pytest.param(guarded, "factor", id="factor"),
    ],
)
def test_concrete_array_out_of_range_is_an_error_like_a_python_number(
    make: Callable[..., Any], name: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be {HALF_OPEN}, got 1.5"):
        make(**{name: jnp.asarray(1.5)})
    with pytest.raises(ValueError, match=rf"{name} must be {HALF_OPEN}, got 1.5"):
        make(**{name: np.float64(1.5)})


@pytest.mark.parametrize(
    ("function", "arguments", "match"),
    [
        (salera_optax.path_mean, (1.5, 1), rf"alpha must be {HALF_OPEN}, got 1.5"),
        (salera_optax.path_std, (0.0, 1), rf"alpha must be {HALF_OPEN}, got 0.0"),
        (salera_optax.path_mean, (0.5, -1), r"\bt must be at least 0, got -1"),
        (salera_optax.path_std, (0.5, 0), r"\bd must be at least 1, got 0"),
        (salera_optax.path_std, (0.5, 1, -2), r"\bt must be at least 0, got -2"),
    ],
)
def test_random_walk_out_of_range_is_named(
    function: Callable[..., Any], arguments: tuple[Any, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        function(*arguments)


def test_momentum_is_between_zero_and_one() -> None:
    for momentum in (-0.1, 1.0, 7.0):
        with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
            salera_optax.salera(0.1, momentum=momentum)


@pytest.mark.parametrize("factory", ALIASES[:2])
@pytest.mark.parametrize("clip", [0.0, -1.0, NAN, INF])
def test_clip_is_above_zero(factory: Callable[..., Any], clip: float) -> None:
    with pytest.raises(ValueError, match=f"clip must be finite and above 0, got {clip}"):
        factory(0.1, clip=clip)


@pytest.mark.parametrize("factory", ALIASES)
@pytest.mark.parametrize("value", [-0.1, NAN, INF])
def test_rates_are_finite_and_not_negative(factory: Callable[..., Any], value: float) -> None:
    with pytest.raises(ValueError, match=rf"learning_rate must be {NOT_NEGATIVE}, got {value}"):
        factory(value)
    with pytest.raises(ValueError, match=rf"weight_decay must be {NOT_NEGATIVE}, got {value}"):
        factory(0.1, weight_decay=value)
    with pytest.raises(TypeError, match=r"learning_rate must be a number .*, got '0.1'"):
        factory("0.1")
    factory(0.0, weight_decay=lambda step: 0.1)


@pytest.mark.parametrize("factory", ALIASES[3:])
def test_decays_of_adam_are_between_zero_and_one(factory: Callable[..., Any]) -> None:
    for name in ("b1", "b2"):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got 1.5"):
            factory(0.1, **{name: 1.5})
