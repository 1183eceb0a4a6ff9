"""The training run as pure functions: nothing here reads, writes or remembers.

The model and the optimizer come first and are static under `jax.jit`; all other arguments are
arrays, so that `jax.vmap` can run over seeds.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import salera_optax
from salera_optax.flax import TrainState

Params = Mapping[str, Any]

_EVALUATION_BATCH = 1000
_TOLERANCE = 0.08  # as Hochreiter and Schmidhuber's 0.04, whose sums are scaled to [0, 1]


class Examples(NamedTuple):
    """Inputs (n, ...) and labels (n,), on the device; see `data.Split`."""

    inputs: jax.Array
    labels: jax.Array


class Carry(NamedTuple):
    """What one step hands to the next, the arrays of a `salera_optax.flax.TrainState`."""

    params: Params
    opt_state: optax.OptState
    batch_stats: Params
    snapshot: Any


class StepRecord(NamedTuple):
    """A step: its minibatch's loss and share of wrong outputs, `metrics` of the optimizer state."""

    loss: jax.Array
    error: jax.Array
    metrics: dict[str, jax.Array]


class Evaluation(NamedTuple):
    """The share of wrong outputs, and the mean loss.

    Wrong is another class than the label; or a number more than 0.08 away from it.
    """

    error: jax.Array
    loss: jax.Array


def init(
    model: nn.Module, tx: optax.GradientTransformation, key: jax.Array, examples: Examples
) -> Carry:
    """Draws the parameters and sets up the optimizer."""
    variables = model.init(key, examples.inputs[:1])
    return _carried(
        TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=tx,
            batch_stats=variables.get("batch_stats", {}),
        )
    )


def variables(carry: Carry, averaged: Callable[[Any, Params], Params] | None) -> Params:
    """What to evaluate: `averaged` makes it of the optimizer state and the parameters."""
    params = carry.params if averaged is None else averaged(carry.opt_state, carry.params)
    return {"params": params, "batch_stats": carry.batch_stats}


def _carried(state: TrainState) -> Carry:
    return Carry(*(getattr(state, name) for name in Carry._fields))


def keys(seed: int | jax.Array) -> tuple[jax.Array, jax.Array]:
    """The random keys of a run: of the initial parameters, and of the order of the examples."""
    init_key, order_key = jax.random.split(jax.random.key(seed))
    return init_key, order_key


def batch_size(size: int, ratio: float) -> int:
    """The number of examples in a minibatch, `ratio` of the training set."""
    return max(1, round(ratio * size))


def epoch_order(key: jax.Array, epoch: int | jax.Array, size: int, batch_size: int) -> jax.Array:
    """The rows of every minibatch of an epoch, (steps, batch_size), newly shuffled.

    The examples that do not fill a minibatch sit this epoch out.
    """
    steps = size // batch_size
    rows = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    return rows[: steps * batch_size].reshape(steps, batch_size)


def train_chunk(
    model: nn.Module,
    tx: optax.GradientTransformation,
    carry: Carry,
    examples: Examples,
    order: jax.Array,
) -> tuple[Carry, StepRecord]:
    """Takes one step for each row of `order`.

    Args:
      model: maps inputs to outputs: logits, or one number.
      tx: the optimizer; it is given the minibatch loss.
      carry: parameters, optimizer state and batch statistics.
      examples: the training set.
      order: the rows of `examples` in each minibatch, (steps, batch_size).

    Returns:
      What the next step needs, and the records of the steps, stacked.
    """

    def one_step(carry: Carry, rows: jax.Array) -> tuple[Carry, StepRecord]:
        batch = Examples(examples.inputs[rows], examples.labels[rows])
        state = TrainState(step=0, apply_fn=model.apply, tx=tx, **carry._asdict())

        def minibatch_loss(params: Params) -> tuple[jax.Array, Any]:
            outputs, changed = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch.inputs,
                train=True,
                mutable=["batch_stats"],
            )
            error = _wrong(outputs, batch.labels).mean()
            return _losses(outputs, batch.labels).mean(), (error, changed.get("batch_stats", {}))

        loss_and_grads = jax.value_and_grad(minibatch_loss, has_aux=True)
        (loss, (error, batch_stats)), grads = loss_and_grads(state.params)
        state = state.apply_gradients(grads=grads, value=loss, batch_stats=batch_stats)
        return _carried(state), StepRecord(loss, error, salera_optax.metrics(state.opt_state))

    return jax.lax.scan(one_step, carry, order)


def evaluate(model: nn.Module, variables: Params, examples: Examples) -> Evaluation:
    """Measures the model with these `params` and `batch_stats` on all examples."""

    def one_example(example: Examples) -> Evaluation:
        outputs = jnp.asarray(model.apply(variables, example.inputs[None]))
        labels = example.labels[None]
        return Evaluation(_wrong(outputs, labels)[0], _losses(outputs, labels)[0])

    each = jax.lax.map(one_example, examples, batch_size=_EVALUATION_BATCH)
    return Evaluation(each.error.mean(), each.loss.mean())


def _losses(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Each example's squared error where the labels are numbers, cross-entropy for classes."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return optax.squared_error(outputs[:, 0], labels)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def _wrong(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return ~(jnp.abs(outputs[:, 0] - labels) <= _TOLERANCE)  # so that NaN is wrong
    return jnp.argmax(outputs, axis=-1) != labels
