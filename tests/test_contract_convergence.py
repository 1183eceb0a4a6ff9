"""Every optimizer comes down to the minimum of the functions of Optax's own tests."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from contract_cases import CASES, Case, Tree, every, every_case
from contract_runs import assert_close


class Target(NamedTuple):
    """A function to minimize, where to start, and where its minimum is."""

    start: Tree
    minimum: Tree
    loss: Callable[[Tree], jax.Array]


def parabolas() -> Target:
    """Optax's parabola, matrix parabola and mixed tensor target, real and complex, in one tree."""
    real = {
        "vector": jnp.asarray([1.0, -1.0, 1.0]),
        "matrix": jnp.asarray([[3.0, -2.0], [1.0, 4.0]]),
        "mixed": (jnp.asarray([1.0, -1.0, 2.0]), jnp.asarray([[1.0, 0.0], [-1.0, 1.0]])),
    }
    minimum = {"real": real, "complex": jax.tree.map(lambda leaf: leaf * (1 + 1j), real)}
    start = jax.tree.map(jnp.zeros_like, minimum)
    for part in start.values():
        part["vector"] = jnp.asarray([-1.0, 10.0, 1.0], part["vector"].dtype)

    def loss(params: Tree) -> jax.Array:
        return optax.tree.norm(optax.tree.sub(params, minimum), squared=True)

    return Target(start, minimum, loss)


def valleys() -> Target:
    """Rosenbrock's function, real and complex."""

    def squared(number: jax.Array) -> jax.Array:
        return (number * number.conj()).real

    def rosenbrock(point: jax.Array, a: complex) -> jax.Array:
        return squared(a - point[0]) + 100.0 * squared(point[1] - point[0] ** 2)

    def loss(params: Tree) -> jax.Array:
        return rosenbrock(params["real"], 1.0) + rosenbrock(params["complex"], 1 + 1j)

    minimum = {"real": jnp.asarray([1.0, 1.0]), "complex": jnp.asarray([1 + 1j, 2j])}
    return Target(jax.tree.map(jnp.zeros_like, minimum), minimum, loss)


def minimize(case: Case, tx: Any, target: Target, steps: int) -> None:
    """Run down to the minimum and compare within Optax's tolerance."""

    def descend(params: Tree, state: Any) -> tuple[Tree, Any]:
        def step(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], None]:
            params, state = carry
            loss, gradients = jax.value_and_grad(target.loss)(params)
            gradients = optax.tree.conj(gradients)
            updates, state = case.update(tx, gradients, state, params, loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=steps)[0]

    params, _ = jax.jit(descend)(target.start, tx.init(target.start))
    assert_close(params, target.minimum, rtol=3e-2, atol=3e-2)


@pytest.mark.slow
@every_case
def test_parabolas_are_minimized(case: Case) -> None:
    minimize(case, case.build(), parabolas(), steps=2000)


@pytest.mark.slow
@every([case for case in CASES if case.valley is not None])
def test_rosenbrock_valleys_are_minimized(case: Case) -> None:
    minimize(case, case.build(**(case.valley or {})), valleys(), steps=20_000)
