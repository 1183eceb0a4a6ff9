"""What a task is: data, a model, a loss to train on, and a number that tells how well it went."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.data import Dataset

Measure = Callable[[jax.Array, jax.Array], jax.Array]
"""Maps the outputs and the labels of many examples to one number."""

NEAR = 0.1
"""A result is near the best when it is within this share of it, or so many nats."""


class Task(NamedTuple):
    """A task; the seed of a run draws the initial parameters and the minibatches, not the data.

    Attributes:
      text: what it is, for the reader of the tables.
      split: whether constants may be chosen on it, or it confirms those that were.
      model: maps inputs to outputs.
      data: makes the training and the test part, the same ones whenever it is called.
      loss: what is trained on.
      metric: what is measured on the test part, lower is better.
      unit: what the metric is called.
      steps: of a run.
      batch: examples in a minibatch.
      nats: whether nearness to the best is measured in nats, not as a share.
    """

    text: str
    split: Literal["tuning", "confirmation"]
    model: nn.Module
    data: Callable[[], Dataset]
    loss: Measure
    metric: Measure
    unit: str
    steps: int
    batch: int
    nats: bool = False

    def near(self, best: float) -> float:
        """The largest value that is near the best one."""
        return best + NEAR if self.nats else best * (1 + NEAR)


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean squared error of outputs of the shape of the labels, or with a last axis of one."""
    return jnp.mean(optax.squared_error(outputs.reshape(labels.shape), labels))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over all labels, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean in nats, of one logit an example."""
    return jnp.mean(jax.nn.softplus(logits[:, 0]) - labels * logits[:, 0])


def wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of the labels that are not the largest logit, in per cent."""
    return 100 * jnp.mean(jnp.argmax(logits, axis=-1) != labels)


def outputs_of(task: Task, params: Any, inputs: jax.Array) -> jax.Array:
    """What the model of the task makes of inputs."""
    return jnp.asarray(task.model.apply({"params": params}, inputs))
