"""Parameters and gradients that do not fit are named by the first leaf that differs."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from factories import BOTH, GUARD_FACTORIES, each, params

import salera_optax


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


def test_swapped_parameters_and_state_are_told_apart() -> None:
    tx = salera_optax.salera(0.1)
    params = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=r"PageHinkleyState.*dict.*swapped"):
        tx.update(params, params, tx.init(params), value=1.0)


def test_masked_integer_leaves_are_no_error() -> None:
    tree = {"weights": jnp.ones((2,)), "steps": jnp.zeros((), jnp.int32)}
    tx = optax.masked(salera_optax.salera(0.1), {"weights": True, "steps": False})
    updates, _ = jax.eval_shape(lambda tree: tx.update(tree, tx.init(tree), tree, value=1.0), tree)
    assert updates["steps"].dtype == jnp.int32


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
