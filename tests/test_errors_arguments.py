"""Functions, detectors and optimizers that a factory cannot take are named and shown."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from factories import ALERA_FACTORIES, ALIASES, GUARD_FACTORIES, each, guarded, params

import salera_optax


@pytest.mark.parametrize("wrong", ["Exact", "paper", None, 1], ids=repr)
def test_unknown_std_is_shown_beside_the_valid_ones(wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"std must be .*'exact'.*'authors'.*got {re.escape(repr(wrong))}"
    ):
        salera_optax.score(3e-6, std=wrong)


@each(ALERA_FACTORIES)
@pytest.mark.parametrize("wrong", [0.01, "ratio", optax.sgd(0.1)], ids=lambda w: str(w)[:5])
def test_law_that_is_no_function_is_shown(make: Callable[..., Any], wrong: Any) -> None:
    match = rf"law must be a function .*ratio.*got {re.escape(repr(wrong))}"
    with pytest.raises(TypeError, match=match):
        make(law=wrong)


@each(ALERA_FACTORIES)
def test_law_whose_answer_has_another_shape_is_refused(make: Callable[..., Any]) -> None:
    tx = make(law=lambda squared_norm, alpha, step, d: jnp.zeros(7))
    with pytest.raises(ValueError, match=r"law must return .* shape .*, got \(7,\)"):
        tx.update(params(), tx.init(params()), params(), value=1.0)


@each(GUARD_FACTORIES)
@pytest.mark.parametrize(
    "wrong",
    ["robust", 0.1, salera_optax.robust, (jnp.zeros, jnp.ones), optax.sgd(0.1)],
    ids=lambda wrong: str(wrong)[:12],
)
def test_detector_of_another_kind_is_shown_beside_the_valid_ones(
    make: Callable[..., Any], wrong: Any
) -> None:
    match = (
        rf"detector must be a .*Detector.*robust\(\).*published\(\).*got {re.escape(repr(wrong))}"
    )
    with pytest.raises(TypeError, match=match):
        make(detector=wrong)


def test_a_detector_of_another_class_is_accepted() -> None:
    class Mine:
        init = staticmethod(salera_optax.robust().init)
        observe = staticmethod(salera_optax.robust().observe)

    for make in GUARD_FACTORIES.values():
        tx = make(detector=Mine())
        update = functools.partial(tx.update, value=1.0)
        jax.eval_shape(update, params(), tx.init(params()), params())


@each(GUARD_FACTORIES)
def test_a_guard_directly_in_a_guard_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"inner must not be a guard itself.*page_hinkley"):
        salera_optax.page_hinkley(make())


@each(GUARD_FACTORIES)
@pytest.mark.parametrize(
    "nest",
    [
        lambda tx: optax.chain(optax.clip(1.0), tx),
        lambda tx: optax.masked(tx, {"Dense_0": True, "Dense_1": False}),
        lambda tx: optax.partition({"tx": tx}, "tx"),
        lambda tx: optax.apply_if_finite(optax.with_extra_args_support(tx), 5),
        lambda tx: salera_optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: tx._replace(update=tx.update),
    ],
    ids=["chain", "masked", "partition", "apply_if_finite", "MultiSteps", "replaced"],
)
def test_a_guard_deep_in_a_guard_is_refused(
    make: Callable[..., Any], nest: Callable[[Any], Any]
) -> None:
    match = r"page_hinkley: inner must hold no further guard.*rollback of the inner"
    with pytest.raises((ValueError, TypeError), match=rf"{match}|must not be a guard itself"):
        salera_optax.page_hinkley(nest(make())).init(params())


@pytest.mark.parametrize(
    "wrong",
    [0.1, None, "sgd", optax.sgd, (lambda params: params,)],
    ids=lambda wrong: str(wrong)[:12],
)
def test_first_argument_that_is_no_transformation_is_shown(wrong: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"inner must be an optax.GradientTransformation.*got {re.escape(repr(wrong))}",
    ):
        salera_optax.page_hinkley(wrong)


@each(
    {
        "scale_by_alera": salera_optax.scale_by_alera,
        "scale_by_parameterwise_alera": salera_optax.scale_by_parameterwise_alera,
    }
)
@pytest.mark.parametrize("wrong", [0.1, "adam"], ids=repr)
def test_base_that_is_no_transformation_is_shown(make: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(
        TypeError,
        match=rf"base must be an optax.GradientTransformation.*got {re.escape(repr(wrong))}",
    ):
        make(base=wrong)


@pytest.mark.parametrize("wrong", [1, "reset_path", optax.EmptyState()], ids=repr)
def test_on_alarm_that_is_not_callable_is_shown(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"on_alarm must be a function .*got {re.escape(repr(wrong))}"
    ):
        guarded(on_alarm=wrong)


@pytest.mark.parametrize("factory", ALIASES)
def test_all_arguments_behind_the_learning_rate_are_given_by_name(
    factory: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        factory(0.1, 0.01)


def test_nesterov_needs_a_momentum_where_there_is_none_by_default() -> None:
    with pytest.raises(ValueError, match="nesterov must be False without a momentum"):
        salera_optax.spalera(0.1, nesterov=True)


@pytest.mark.parametrize(
    "given", [{"second_moment": "nu"}, {"law": salera_optax.score(0.01), "second_moment": len}]
)
def test_a_second_moment_is_had_by_a_function_and_not_by_the_paper(given: Any) -> None:
    with pytest.raises(ValueError, match=r"second_moment must be a function of the state of base"):
        salera_optax.scale_by_alera(**given)
