"""The training run as pure functions: nothing here reads, writes or remembers.

The model and the optimizer come first and are static under `jax.jit`; all other arguments are
arrays, so that `jax.vmap` can run over seeds.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import salera_optax

Params = Mapping[str, Any]

_EVALUATION_BATCH = 1000
_TOLERANCE = 0.08  # as Hochreiter and Schmidhuber's 0.04, whose sums are scaled to [0, 1]


class Examples(NamedTuple):
    """Inputs (n, ...) and labels (n,), on the device; see `data.Split`."""

    inputs: jax.Array
    labels: jax.Array


class Carry(NamedTuple):
    """What one step hands to the next."""

    params: Params
    opt_state: optax.OptState


class StepRecord(NamedTuple):
    """What the log keeps of a step: the loss, and `salera_optax.metrics` of the optimizer state."""

    loss: jax.Array
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
    params = model.init(key, examples.inputs[:1])["params"]
    return Carry(params, tx.init(params))


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
      carry: parameters and optimizer state.
      examples: the training set.
      order: the rows of `examples` in each minibatch, (steps, batch_size).

    Returns:
      The new parameters and optimizer state, and the records of the steps, stacked.
    """

    def minibatch_loss(params: Params, batch: Examples) -> jax.Array:
        return _losses(_outputs(model, params, batch.inputs), batch.labels).mean()

    def one_step(carry: Carry, rows: jax.Array) -> tuple[Carry, StepRecord]:
        batch = Examples(examples.inputs[rows], examples.labels[rows])
        loss, grads = jax.value_and_grad(minibatch_loss)(carry.params, batch)
        params, opt_state = salera_optax.step(tx, grads, carry.opt_state, carry.params, value=loss)
        return Carry(params, opt_state), StepRecord(loss, salera_optax.metrics(opt_state))

    return jax.lax.scan(one_step, carry, order)


def evaluate(model: nn.Module, params: Params, examples: Examples) -> Evaluation:
    """Measures the model on all examples, a thousand at a time."""

    def one_example(example: Examples) -> Evaluation:
        outputs = _outputs(model, params, example.inputs[None])
        labels = example.labels[None]
        return Evaluation(_wrong(outputs, labels)[0], _losses(outputs, labels)[0])

    each = jax.lax.map(one_example, examples, batch_size=_EVALUATION_BATCH)
    return Evaluation(each.error.mean(), each.loss.mean())


def _outputs(model: nn.Module, params: Params, inputs: jax.Array) -> jax.Array:
    return jnp.asarray(model.apply({"params": params}, inputs))


def _losses(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Each example's squared error where the labels are numbers, cross-entropy for classes."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return optax.squared_error(outputs[:, 0], labels)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def _wrong(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return ~(jnp.abs(outputs[:, 0] - labels) <= _TOLERANCE)  # so that NaN is wrong
    return jnp.argmax(outputs, axis=-1) != labels
