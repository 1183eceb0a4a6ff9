"""The training steps whose costs are measured, each compiled as one program."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import salera_optax
from benchmarks.tasks.networks import LanguageModel

LEAF = 100  # parameters of each of many leaves
_LAYERS = 4
_BATCH = 16
_SCANNED = 20  # steps of the program over many leaves, whose buffers take long to pass


class Program(NamedTuple):
    """A compiled training step.

    Attributes:
      compiled: what `jax.jit(...).lower(...).compile()` gives; it takes (parameters, state), which
        are donated, and `rest`, and returns (parameters, state).
      carry: the first (parameters, state).
      rest: its further arguments.
      seconds: duration of tracing and compilation.
    """

    compiled: Any
    carry: Any
    rest: tuple[Any, ...]
    seconds: float


def network(parameters: int, layers: int = _LAYERS) -> dict[str, Any]:
    """A multilayer perceptron of square layers, with about that many parameters."""
    width = max(round(math.sqrt(parameters / layers)), 2)
    keys = jax.random.split(jax.random.key(0), layers)
    scale = math.sqrt(2 / width)
    return {
        f"Dense_{i}": {
            "kernel": scale * jax.random.normal(key, (width, width)),
            "bias": jnp.zeros(width),
        }
        for i, key in enumerate(keys)
    }


def _network_loss(params: Any, batch: jax.Array) -> jax.Array:
    hidden = batch
    for layer in params.values():
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    return jnp.mean((hidden - batch) ** 2)


def many_leaves(leaves: int) -> list[jax.Array]:
    """Small leaves of a hundred parameters."""
    return [jnp.full(LEAF, 1 + i / leaves) for i in range(leaves)]


def _leaves_loss(params: Any, batch: jax.Array) -> jax.Array:
    return jnp.asarray(sum(jnp.mean((leaf - batch) ** 2) for leaf in params) / len(params))


def compiled(step: Callable[..., Any], tx: Any, params: Any, *rest: Any) -> Program:
    """Compiles `step(params, state, *rest)` with parameters and state donated."""
    state = tx.init(params)
    start = time.perf_counter()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, *rest).compile()
    seconds = time.perf_counter() - start
    # Some states share their buffers with the parameters, and both are donated.
    carry = jax.block_until_ready(jax.tree.map(jnp.copy, (params, tx.init(params))))
    return Program(program, carry, rest, seconds)


def by_update(tx: Any, grads: Any, state: Any, params: Any, *, value: jax.Array) -> Any:
    """The same as `salera_optax.step`, as a user of `optax.chain` has it."""
    tx = optax.with_extra_args_support(tx)
    updates, state = tx.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state


def whole_step(
    tx: optax.GradientTransformation, params: Any, move: Callable[..., Any] = salera_optax.step
) -> Program:
    """Loss, gradients, update and application in one program, for the parameters of `network`."""
    width = len(params["Dense_0"]["bias"])
    batch = jax.random.normal(jax.random.key(1), (_BATCH, width))

    def step(params: Any, state: Any, batch: jax.Array, offset: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(_network_loss)(params, batch)
        return move(tx, grads, state, params, value=loss + offset)

    return compiled(step, tx, params, batch, jnp.float32(0))


def with_alarms(program: Program) -> Program:
    """The same whole step, told every time that the loss is NaN."""
    batch, _ = program.rest
    carry = jax.tree.map(jnp.copy, program.carry)
    return program._replace(carry=carry, rest=(batch, jnp.float32(math.nan)))


def update_alone(tx: optax.GradientTransformation, params: Any) -> Program:
    """Update and application, with gradients that lie in memory."""
    grads = jax.tree.map(lambda p: jnp.full_like(p, 1e-3), params)

    def step(params: Any, state: Any, grads: Any, loss: jax.Array) -> Any:
        return salera_optax.step(tx, grads, state, params, value=loss)

    return compiled(step, tx, params, grads, jnp.float32(1))


def scanned_steps(tx: optax.GradientTransformation, params: Any) -> Program:
    """Whole steps over many small leaves, one after another in one program."""
    batch = jax.random.normal(jax.random.key(1), (LEAF,))

    def steps(params: Any, state: Any, batch: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            loss, grads = jax.value_and_grad(_leaves_loss)(params, batch)
            return salera_optax.step(tx, grads, state, params, value=loss), None

        return jax.lax.scan(step, (params, state), None, length=_SCANNED)[0]

    return compiled(steps, tx, params, batch)


def at_size(tx: optax.GradientTransformation, parameters: int) -> Program:
    """A whole step of the network with that many parameters."""
    return whole_step(tx, network(parameters))


def at_leaves(tx: optax.GradientTransformation, leaves: int) -> Program:
    """Whole steps over that many small leaves."""
    return scanned_steps(tx, many_leaves(leaves))


def deep(tx: optax.GradientTransformation) -> Program:
    """A whole step of a network of 100 layers of 64 x 64, which has 200 leaves."""
    return whole_step(tx, network(100 * 64 * 64, layers=100))


def transformer(tx: optax.GradientTransformation) -> Program:
    """A whole step of a character transformer of 12 blocks, as Flax makes it, of 126 leaves."""
    model = LanguageModel(characters=64, width=64, depth=12, heads=4)
    text = jax.random.randint(jax.random.key(0), (_BATCH, 33), 0, 64)
    params = model.init(jax.random.key(1), text[:, :-1])

    def loss_fn(params: Any, text: jax.Array) -> jax.Array:
        logits = jnp.asarray(model.apply(params, text[:, :-1]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()

    def step(params: Any, state: Any, text: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, text)
        return salera_optax.step(tx, grads, state, params, value=loss)

    return compiled(step, tx, params, text)


NETWORKS = {
    "100 layers of 64 x 64 (200 leaves)": deep,
    "transformer of 12 blocks (126 leaves)": transformer,
}
"""Networks of many leaves, as people have them, by a name for the table."""
