"""Every kind of bad input has a message of its own: the argument, its range and what came."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

NAN, INF = float("nan"), float("inf")


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


def detected(**numbers: Any) -> optax.GradientTransformationExtraArgs:
    """The bare wrapper with the paper's detector."""
    return guarded(detector=salera_optax.published(**numbers))


# The factories of what has the two numbers of the paper's detector.
DETECTOR_FACTORIES: dict[str, Callable[..., Any]] = {
    "published": detected,
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
LAWS: dict[str, Callable[..., Any]] = {
    "ratio": lambda gain: salera_optax.scale_by_alera(law=salera_optax.ratio(gain)),
    "score": lambda gain: salera_optax.scale_by_alera(law=salera_optax.score(gain)),
    "score, one rate per coordinate": lambda gain: salera_optax.scale_by_parameterwise_alera(
        law=salera_optax.score(gain, "authors")
    ),
}


def _resting(rest: Any) -> Any:
    return salera_optax.scale_by_alera(law=salera_optax.ratio(rest=rest))


BOTH = {**ALERA_FACTORIES, **GUARD_FACTORIES}

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


def params() -> dict[str, Any]:
    """Two modules of a model."""
    return {
        "Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones((2,))},
        "Dense_1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))},
    }


def each(factories: dict[str, Callable[..., Any]]) -> pytest.MarkDecorator:
    """Cross a test with factories that need no further argument."""
    return pytest.mark.parametrize("make", factories.values(), ids=factories.keys())


# ---------------------------------------------------------------------- arguments of factories


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


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize("wrong", ["layer", "by_module", ""], ids=repr)
def test_groups_that_are_another_string_than_all_are_shown(
    make: Callable[..., Any], wrong: str
) -> None:
    with pytest.raises(ValueError, match=rf"groups must be None .*'all'.*got {wrong!r}"):
        make(groups=wrong)


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


# --------------------------------------------------------------------------- the parameters


@each(BOTH)
@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_leaf_that_is_no_floating_point_array_is_named(
    make: Callable[..., Any], dtype: str
) -> None:
    tree = {**params(), "steps": {"count": jnp.zeros((), dtype)}}
    with pytest.raises(TypeError, match=rf"float.*{dtype}.*steps/count"):
        make().init(tree)
    with pytest.raises(TypeError, match=rf"float.*{dtype}.*steps/count"):
        jax.jit(make().init)(tree)


@each(BOTH)
@pytest.mark.parametrize("leaf", [jax.nn.relu, print, "same"], ids=["custom_jvp", "builtin", "str"])
def test_leaf_that_is_no_array_is_named_and_the_way_to_the_parameters_too(
    make: Callable[..., Any], leaf: Any
) -> None:
    model = {**params(), "activation": leaf}
    kind = re.escape(str(type(leaf)))
    match = rf"float.*{kind} at 'activation'.*Pass the parameters only .*eqx\.filter"
    with pytest.raises(TypeError, match=match):
        make().init(model)


@each(GUARD_FACTORIES)
def test_update_of_the_guard_without_parameters_says_that_it_needs_them(
    make: Callable[..., Any],
) -> None:
    tx = make()
    state = tx.init(params())
    with pytest.raises(ValueError, match=r"params.*None"):
        tx.update(params(), state, value=1.0)
    with pytest.raises(ValueError, match=r"params.*None"):
        jax.jit(lambda gradients, state: tx.update(gradients, state, None, value=1.0))(
            params(), state
        )


# ---------------------------------------------------------------------------- the gradients


def missing_leaf(tree: Any) -> Any:
    """A gradient that lacks a leaf."""
    return {**tree, "Dense_1": {"kernel": tree["Dense_1"]["kernel"]}}


def additional_leaf(tree: Any) -> Any:
    """A gradient with a leaf too many."""
    return {**tree, "Dense_2": {"kernel": jnp.ones((2, 2))}}


def bare_leaf(tree: Any) -> Any:
    """A gradient that is no tree."""
    return tree["Dense_0"]["kernel"]


@each(BOTH)
@pytest.mark.parametrize(
    ("spoil", "difference"),
    [
        (missing_leaf, "of 4 leaves there and 3 here, 'Dense_1/bias' is missing"),
        (additional_leaf, "of 4 leaves there and 5 here, 'Dense_2/kernel' is unknown to it"),
        (bare_leaf, "of 4 leaves there and 1 here, 'Dense_0/bias' is missing"),
    ],
)
def test_gradients_of_another_structure_are_refused_by_the_first_difference(
    make: Callable[..., Any], spoil: Callable[[Any], Any], difference: str
) -> None:
    tx = make()
    state = tx.init(params())
    match = rf"(updates|gradients?).*structure.*init saw: {difference}"
    with pytest.raises(ValueError, match=match):
        tx.update(spoil(params()), state, params(), value=1.0)
    with pytest.raises(ValueError, match=match):
        jax.jit(lambda gradients, state: tx.update(gradients, state, params(), value=1.0))(
            spoil(params()), state
        )


@each(BOTH)
@pytest.mark.parametrize("shape", [(2, 3), (6,), (1, 3, 2), ()], ids=str)
def test_gradient_of_another_shape_is_named_with_both_shapes(
    make: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    tx = make()
    state = tx.init(params())
    gradients = {**params(), "Dense_0": {"kernel": jnp.ones(shape), "bias": jnp.ones((2,))}}
    match = rf"(updates|gradients?).*\(3, 2\).*Dense_0/kernel.*got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=match):
        tx.update(gradients, state, params(), value=1.0)
    with pytest.raises(ValueError, match=match):
        jax.jit(lambda gradients, state: tx.update(gradients, state, params(), value=1.0))(
            gradients, state
        )


@each(GUARD_FACTORIES)
def test_parameters_of_another_tree_than_the_state_are_refused(make: Callable[..., Any]) -> None:
    tx = make()
    state = tx.init(params())
    with pytest.raises(ValueError, match=r"params.*structure.*'Dense_1/bias' is missing"):
        tx.update(params(), state, missing_leaf(params()), value=1.0)
    reshaped = {**params(), "Dense_0": {"kernel": jnp.ones((6,)), "bias": jnp.ones((2,))}}
    with pytest.raises(ValueError, match=r"params.*\(3, 2\).*Dense_0/kernel.*got \(6,\)"):
        tx.update(params(), state, reshaped, value=1.0)


@each(GUARD_FACTORIES)
def test_parameters_of_lookahead_are_refused(
    make: Callable[..., Any],
) -> None:
    tx = make()
    both = optax.LookaheadParams.init_synced(params())
    with pytest.raises(ValueError, match=r"LookaheadParams.*cannot be guarded"):
        tx.update(params(), tx.init(params()), both, value=1.0)


def large_tree() -> dict[str, Any]:
    """A model of 240 leaves."""
    return {
        f"Transformer_Block_{block}": {
            layer: {"kernel": jnp.ones((1,)), "bias": jnp.ones((1,))}
            for layer in ("query", "key", "value", "output", "mlp_in")
        }
        for block in range(24)
    }


@each(BOTH)
@pytest.mark.parametrize("change", ["missing", "renamed", "list", "shape"])
def test_message_about_a_large_tree_is_short_and_names_the_first_leaf_that_differs(
    make: Callable[..., Any], change: str
) -> None:
    tx, tree = make(), large_tree()
    assert len(jax.tree.leaves(tree)) == 240
    gradients = {**tree, "Transformer_Block_7": dict(tree["Transformer_Block_7"])}
    layer = gradients["Transformer_Block_7"].pop("query")
    if change == "renamed":
        gradients["Transformer_Block_7"]["queries"] = layer
    elif change == "list":
        gradients["Transformer_Block_7"]["query"] = [layer["bias"], layer["kernel"]]
    elif change == "shape":
        gradients["Transformer_Block_7"]["query"] = {**layer, "bias": jnp.ones((3,))}
    with pytest.raises(ValueError, match=r"'Transformer_Block_7/query/bias'") as raised:
        tx.update(gradients, tx.init(tree), tree, value=1.0)
    message = str(raised.value)
    assert len(message) < 400
    assert message.count("Transformer_Block") == 1
    if change != "shape":
        assert f"of 240 leaves there and {len(jax.tree.leaves(gradients))} here" in message


@each(GUARD_FACTORIES)
def test_containers_of_other_types_are_told(make: Callable[..., Any]) -> None:
    tx, tree = make(), {"layers": (jnp.ones(2), jnp.ones(3))}
    with pytest.raises(ValueError, match=r"same names, the containers are of other types"):
        tx.update({"layers": list(tree["layers"])}, tx.init(tree), tree, value=1.0)


# --------------------------------------------------------------------------------- the loss


@each(GUARD_FACTORIES)
def test_missing_value_is_named(make: Callable[..., Any]) -> None:
    tx = make()
    state = tx.init(params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        tx.update(params(), state, params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        jax.jit(tx.update)(params(), state, params())
    with pytest.raises(TypeError, match=r"\bvalue\b"):
        optax.chain(optax.clip(1.0), tx).update(params(), (optax.EmptyState(), state), params())


@each(GUARD_FACTORIES)
def test_value_of_none_is_refused_by_name(make: Callable[..., Any]) -> None:
    tx = make()
    with pytest.raises(TypeError, match=r"\bvalue\b.*real scalar"):
        tx.update(params(), tx.init(params()), params(), value=None)


@each(GUARD_FACTORIES)
@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3), (0,)], ids=str)
def test_value_that_is_no_scalar_is_refused_with_its_shape(
    make: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    tx = make()
    state = tx.init(params())
    match = rf"\bvalue\b.*scalar.*{re.escape(str(shape))}"
    with pytest.raises(ValueError, match=match):
        tx.update(params(), state, params(), value=jnp.ones(shape))
    with pytest.raises(ValueError, match=match):
        jax.jit(tx.update)(params(), state, params(), value=np.ones(shape))


@each(GUARD_FACTORIES)
@pytest.mark.parametrize("value", [1 + 1j, jnp.complex64(1)], ids=repr)
def test_complex_value_is_refused_by_name(make: Callable[..., Any], value: Any) -> None:
    tx = make()
    with pytest.raises(ValueError, match=r"\bvalue must be a real scalar.*complex"):
        tx.update(params(), tx.init(params()), params(), value=value)


# ------------------------------------------------------------------------------- the labels


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize(
    "labels",
    [
        {"Dense_0": "first"},
        {"Dense_0": "first", "Dense_1": "second", "Dense_2": "third"},
        {"Dense_0": "first", "Dense_1": {"kernel": "second"}},
        {"Dense_0": "first", "Dense_1": None},
        ("first", "second"),
        {"Dense_0": {"kernel": {"deeper": "first"}, "bias": "second"}, "Dense_1": "third"},
    ],
    ids=["too_few", "too_many", "leaf_missing", "none", "another_container", "too_deep"],
)
def test_labels_that_do_not_cover_the_tree_are_shown(make: Callable[..., Any], labels: Any) -> None:
    match = rf"groups must give a label to every leaf.*{re.escape(repr(labels))}"
    with pytest.raises(ValueError, match=match):
        make(groups=labels).init(params())
    with pytest.raises(ValueError, match=match):
        make(groups=lambda tree: labels).init(params())
    with pytest.raises(ValueError, match=match):
        jax.jit(make(groups=labels).init)(params())


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize("label", [1, 1.5, True, b"first"], ids=repr)
def test_label_of_another_kind_than_a_string_is_shown(make: Callable[..., Any], label: Any) -> None:
    match = rf"groups must .*strings?.*got {re.escape(repr(label))}"
    with pytest.raises(TypeError, match=match):
        make(groups={"Dense_0": "first", "Dense_1": label}).init(params())
    with pytest.raises(TypeError, match=match):
        make(groups=label).init(params())


# --------------------------------------------------------------------- what is not an error


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


def test_masked_integer_leaves_are_no_error() -> None:
    tree = {"weights": jnp.ones((2,)), "steps": jnp.zeros((), jnp.int32)}
    tx = optax.masked(salera_optax.salera(0.1), {"weights": True, "steps": False})
    updates, _ = jax.eval_shape(lambda tree: tx.update(tree, tx.init(tree), tree, value=1.0), tree)
    assert updates["steps"].dtype == jnp.int32


def test_swapped_parameters_and_state_are_told_apart() -> None:
    tx = salera_optax.salera(0.1)
    params = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"PageHinkleyState.*dict.*swapped"):
        tx.update(params, params, tx.init(params), value=1.0)


def test_a_value_that_is_no_number_is_shown() -> None:
    tx = salera_optax.salera(0.1)
    params = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"value must be a real scalar.*got \(1.0, \{\}\)"):
        tx.update(params, tx.init(params), params, value=(1.0, {}))


def test_momentum_is_between_zero_and_one() -> None:
    for momentum in (-0.1, 1.0, 7.0):
        with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
            salera_optax.salera(0.1, momentum=momentum)


ALIASES = (
    salera_optax.alera,
    salera_optax.salera,
    salera_optax.spalera,
    salera_optax.ag_adam,
    salera_optax.salera_adamw,
)


@pytest.mark.parametrize("factory", ALIASES)
def test_all_arguments_behind_the_learning_rate_are_given_by_name(
    factory: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        factory(0.1, 0.01)


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


@pytest.mark.parametrize("factory", ALIASES[:3])
def test_nesterov_needs_a_momentum(factory: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="nesterov must be False without a momentum"):
        factory(0.1, nesterov=True)
