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
_RATE = "learning_rate/"


class Examples(NamedTuple):
    """Images (n, height, width, channels) and labels (n,), on the device."""

    images: jax.Array
    labels: jax.Array


class Carry(NamedTuple):
    """What one step hands to the next."""

    params: Params
    opt_state: optax.OptState


class StepRecord(NamedTuple):
    """What the log keeps of a step; `learning_rate` is empty for optimizers that report none."""

    loss: jax.Array
    alarm: jax.Array
    learning_rate: dict[str, jax.Array]


class Evaluation(NamedTuple):
    """The share of misclassified images, and the mean loss."""

    error: jax.Array
    loss: jax.Array


def init(
    model: nn.Module, tx: optax.GradientTransformation, key: jax.Array, examples: Examples
) -> Carry:
    """Draws the parameters and sets up the optimizer."""
    params = model.init(key, examples.images[:1])["params"]
    return Carry(params, tx.init(params))


def epoch_order(key: jax.Array, epoch: int | jax.Array, size: int, batch_size: int) -> jax.Array:
    """The rows of every minibatch of an epoch, (steps, batch_size), newly shuffled.

    The images that do not fill a minibatch sit this epoch out.
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
      model: maps images to logits.
      tx: the optimizer; it is given the minibatch loss.
      carry: parameters and optimizer state.
      examples: the training set.
      order: the rows of `examples` in each minibatch, (steps, batch_size).

    Returns:
      The new parameters and optimizer state, and the records of the steps, stacked.
    """

    def minibatch_loss(params: Params, batch: Examples) -> jax.Array:
        logits = _logits(model, params, batch.images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

    def one_step(carry: Carry, rows: jax.Array) -> tuple[Carry, StepRecord]:
        batch = Examples(examples.images[rows], examples.labels[rows])
        loss, grads = jax.value_and_grad(minibatch_loss)(carry.params, batch)
        params, opt_state = salera_optax.step(tx, grads, carry.opt_state, carry.params, value=loss)
        seen = salera_optax.metrics(opt_state)
        rates = {
            name.removeprefix(_RATE): rate for name, rate in seen.items() if name.startswith(_RATE)
        }
        alarm = jnp.asarray(seen.get("alarm", False))
        return Carry(params, opt_state), StepRecord(loss, alarm, rates)

    return jax.lax.scan(one_step, carry, order)


def evaluate(model: nn.Module, params: Params, examples: Examples) -> Evaluation:
    """Measures the model on all examples, a thousand at a time."""

    def one_example(example: Examples) -> Evaluation:
        logits = _logits(model, params, example.images[None])[0]
        return Evaluation(
            error=jnp.argmax(logits) != example.labels,
            loss=optax.softmax_cross_entropy_with_integer_labels(logits, example.labels),
        )

    each = jax.lax.map(one_example, examples, batch_size=_EVALUATION_BATCH)
    return Evaluation(each.error.mean(), each.loss.mean())


def _logits(model: nn.Module, params: Params, images: jax.Array) -> jax.Array:
    return jnp.asarray(model.apply({"params": params}, images))
