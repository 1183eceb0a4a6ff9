"""What the tests of the contract share: data with an explosion, runs, and comparisons of trees."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contract_cases import Case, Tree

# ------------------------------------------------------------------------------- the data


STEPS = 16
SHORT = 6  # steps of the runs that are not compiled; the explosion and a step after are among them
FIRST_LAYER = {"Dense_0": True, "temperature": False}


def numbers(draw: Callable[[tuple[int, ...]], Any], dtype: Any = jnp.float32) -> Tree:
    """A small tree like a Flax model's, with a leaf of every small rank."""
    return {
        "Dense_0": {
            "bias": jnp.asarray(draw((2,)), dtype),
            "kernel": jnp.asarray(draw((3, 2)), dtype),
        },
        "temperature": jnp.asarray(draw(()), dtype),
    }


def parameters(dtype: Any = jnp.float32, seed: int = 0) -> Tree:
    """Parameters between 1 and 2: `p + (before - p)` is exact, so a rollback takes one call."""
    random = np.random.default_rng(seed)
    return numbers(lambda shape: random.uniform(1, 2, size=shape), dtype)


@functools.cache
def gradient_sequence(seed: int = 1) -> Tree:
    """Noisy gradients with a common direction; once they nearly vanish."""
    random = np.random.default_rng(seed)
    sequence = numbers(lambda shape: random.normal(size=(STEPS, *shape)) + 0.5)
    return jax.tree.map(lambda leaf: leaf.at[8].multiply(1e-3), sequence)


@functools.cache
def loss_sequence() -> jax.Array:
    """A healthy loss, an explosion that is certain, healthy again, then a slow divergence."""
    losses = [1.0, 0.95, 40.0, 40.0, 40.0, 0.9, 0.89, 0.88, *np.geomspace(0.9, 5.0, STEPS - 8)]
    return jnp.asarray(losses, jnp.float32)


def slice_of(sequence: Tree, step: Any) -> Tree:
    """What one step receives."""
    return jax.tree.map(lambda leaf: leaf[step], sequence)


def first_layer(tree: Tree) -> Tree:
    """The part of a tree that the mask leaves to the optimizer."""
    return {"Dense_0": tree["Dense_0"]}


# ------------------------------------------------------------------------------- the runs


class Trajectory(NamedTuple):
    """Everything that a run leaves behind."""

    params: Tree
    state: Any
    updates: Tree


def trajectory(
    case: Case, tx: Any, state: Any, params: Tree, gradients: Tree, losses: Any
) -> Trajectory:
    """The scan over a sequence of gradients and losses."""

    def step(carry: tuple[Tree, Any], data: tuple[Tree, Any]) -> tuple[tuple[Tree, Any], Tree]:
        params, state = carry
        gradient, loss = data
        updates, state = case.update(tx, gradient, state, params, loss)
        return (optax.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (params, state), (gradients, losses))
    return Trajectory(params, state, updates)


def everything(tree: Tree) -> Tree:
    """The whole tree."""
    return tree


def run(
    case: Case, tx: Any, part: Callable[[Tree], Tree] = everything, losses: Any = None
) -> Trajectory:
    """A few steps, operation by operation: the same operations give the same bits."""
    params, gradients = part(parameters()), slice_of(part(gradient_sequence()), slice(SHORT))
    losses = loss_sequence()[:SHORT] if losses is None else losses
    with jax.disable_jit():
        return trajectory(case, tx, tx.init(params), params, gradients, losses)


@functools.cache
def short_run(case: Case) -> Trajectory:
    """The run, operation by operation, that the properties compare with."""
    return run(case, case.build())


def compiled_run(case: Case, tx: Any, scan: Any = None) -> Trajectory:
    """The whole run, compiled."""
    params = parameters()
    scan = scan or jax.jit(functools.partial(trajectory, case, tx))
    final: Trajectory = scan(tx.init(params), params, gradient_sequence(), loss_sequence())
    return final


@functools.cache
def scan_of(case: Case) -> Any:
    """The compiled scan of the optimizer."""
    return jax.jit(functools.partial(trajectory, case, case.build()))


@functools.cache
def long_run(case: Case) -> Trajectory:
    """The whole compiled run that the properties compare with."""
    return compiled_run(case, case.build(), scan_of(case))


# ------------------------------------------------------------------------------ the trees


STATISTICS = (
    "path",
    "log_rate",
    "log_rates",
    "lengths",
    "numbers",  # the scalars of the guard and of its robust detector
    "reference",
    "smoothed",
    "average",
    "statistic",
    "threshold",
    "values",
    "leaf_norms",
)


def statistics(state: Any) -> list[Tree]:
    """The numbers of this package in a state, those of Optax left out."""
    return [found for name in STATISTICS for _, found in optax.tree.get_all_with_path(state, name)]


def structure(tree: Tree) -> Any:
    """The containers of a tree."""
    return jax.tree.structure(tree)


def described(tree: Tree) -> Tree:
    """Shapes and dtypes instead of arrays."""
    abstract: Any = jax.ShapeDtypeStruct
    return jax.tree.map(lambda leaf: abstract(leaf.shape, leaf.dtype), tree)


def avals(tree: Tree) -> list[Any]:
    """Shape, dtype and weak type of every leaf."""
    return [
        (leaf.shape, leaf.dtype, leaf.weak_type)
        for leaf in jax.tree.leaves(jax.eval_shape(lambda: tree))
    ]


def assert_same_avals(actual: Tree, expected: Tree) -> None:
    assert structure(actual) == structure(expected)
    places = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(expected)]
    for place, one, other in zip(places, avals(actual), avals(expected), strict=True):
        assert one == other, place


def assert_equal(actual: Tree, expected: Tree) -> None:
    assert structure(actual) == structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual: Tree, expected: Tree, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert structure(actual) == structure(expected)
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, actual, expected)


def assert_finite(tree: Tree) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        place = jax.tree_util.keystr(path)
        assert not leaf.is_deleted(), place
        assert np.all(np.isfinite(np.asarray(leaf))), place
