"""Checks of arguments; every message names the argument, its range and what came."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def check_number(name: str, value: Any, valid: Callable[[float], bool], expected: str) -> None:
    """Raises unless `value` is a number that is `valid`; a traced value passes unchecked."""
    if isinstance(value, jax.core.Tracer):
        return
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number {expected}, got {value!r}.") from None
    if not valid(number):  # NaN fails every comparison, so it is refused too.
        raise ValueError(f"{name} must be {expected}, got {value}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_transformation(name: str, value: Any) -> None:
    """Raises unless `value` is an Optax transformation (an `init` and an `update`)."""
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation, such as optax.sgd(0.1), "
            f"got {value!r}."
        )


def check_detector(value: Any) -> None:
    """Raises unless `value` is a detector (an `init` and an `observe`) or None."""
    functions = getattr(value, "init", None), getattr(value, "observe", None)
    if value is not None and not all(callable(function) for function in functions):
        raise TypeError(
            "detector must be a salera_optax.Detector, such as robust() or published(), "
            f"got {value!r}."
        )


def leaf_name(path: tuple[Any, ...], depth: int | None = None) -> str:
    """The name of a leaf, its keys (up to `depth`) joined by slashes: `Dense_0/kernel`."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]  # The array inside an nnx.Param is no level of the model.
    return jax.tree_util.keystr(path[:depth], simple=True, separator="/")


def check_params(caller: str, params: Any) -> None:
    """Raises unless every leaf of `params` is a real or complex floating-point array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:  # A model of Equinox holds functions and strings too.
            dtype = None
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{caller}: every leaf of params must have a floating-point or complex dtype, got "
                f"{dtype or type(leaf)} at '{leaf_name(path)}'. Pass the parameters only (of an "
                "Equinox model eqx.filter(model, eqx.is_inexact_array)), or leave such leaves out "
                "with optax.masked."
            )


def check_value(caller: str, value: Any) -> None:
    """Raises unless `value` is a real scalar, the minibatch loss."""
    if value is None:
        raise TypeError(
            f"{caller}: missing argument 'value', the minibatch loss (a real scalar): call "
            "update(grads, state, params, value=loss). (Flax's own TrainState cannot pass it on: "
            "salera_optax.flax.TrainState can.)"
        )
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{caller}: value must be a real scalar, the minibatch loss, got {value!r}."
        ) from None
    if array.shape != () or jnp.iscomplexobj(array):
        raise ValueError(
            f"{caller}: value must be a real scalar, the minibatch loss, got shape "
            f"{array.shape} and dtype {array.dtype}."
        )


def check_axis_name(axis_name: Any) -> None:
    """Raises unless `axis_name` is a name, a tuple of names, or None."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"axis_name must be a string, a tuple of strings, or None, got {axis_name!r}."
        )


def check_axes(caller: str, what: str, missing: frozenset[str], axis_name: Any) -> None:
    """Raises where there are axes of `shard_map` that `axis_name` should have named."""
    if missing:
        raise ValueError(
            f"{caller}: axis_name must name every axis of shard_map over which {what} vary, got "
            f"{axis_name!r} without {', '.join(map(repr, sorted(missing)))}."
        )


def check_state(caller: str, state: Any, kind: type) -> None:
    """Raises unless `state` is the state that `init` makes, a `kind`."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{caller}: state must be the {kind.__name__} of init, got {type(state)}. Are params "
            "and state swapped? The order is update(grads, state, params). A state from a "
            "checkpoint must be restored into the structure of init; one without a guard, into "
            "that of the optimizer inside."
        )


def check_same_tree(caller: str, name: str, tree: Any, reference: Any) -> None:
    """Raises unless `tree` has the structure and the shapes of `reference`, the state's own."""
    got, want = (jax.tree_util.tree_leaves_with_path(part) for part in (tree, reference))
    structures: list[Any] = [jax.tree.structure(part) for part in (tree, reference)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"{caller}: {name} must have the tree structure that init saw: "
            f"{_first_difference(tree, reference)}. "
            "(What is restored from a checkpoint without a structure has lists for tuples.)"
        )
    for (path, leaf), (_, like) in zip(got, want, strict=True):
        if jnp.shape(leaf) != jnp.shape(like):
            raise ValueError(
                f"{caller}: {name} must have the shapes that init saw, {jnp.shape(like)} at "
                f"'{leaf_name(path)}', got {jnp.shape(leaf)}."
            )


def _first_difference(tree: Any, reference: Any) -> str:
    """Where two trees part, by the paths of their leaves, else of what is empty in them."""
    leaves = [len(jax.tree.leaves(part)) for part in (reference, tree)]
    for is_leaf in (None, _is_empty):
        want, got = (_paths(part, is_leaf) for part in (reference, tree))
        for paths, others, what in ((want, got, "is missing"), (got, want, "is unknown to it")):
            for name, path in paths.items():
                if name not in others:
                    return (
                        f"of {leaves[0]} leaves there and {leaves[1]} here, '{leaf_name(path)}' "
                        f"{what}"
                    )
    return "the leaves have the same names, the containers are of other types"


def _paths(tree: Any, is_leaf: Callable[[Any], bool] | None) -> dict[str, Any]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)]
    return {jax.tree_util.keystr(path): path for path in paths}


def _is_empty(part: Any) -> bool:
    """As the groups of a state, which have names only."""
    return isinstance(part, Mapping) and not part
