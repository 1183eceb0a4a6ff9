"""Training runs into which a fault is injected, as pure functions.

A run is data-parallel over two virtual replicas, an axis of `jax.vmap`: each takes the gradient of
its half of the minibatch, the gradients are averaged, and each replica steps for itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import salera_optax
from benchmarks.data import Dataset
from benchmarks.faults.guards import REPLICAS, GuardedOptimizer
from benchmarks.training import Examples, evaluate, keys

EVERY = 5  # steps between two evaluations
BATCH = 64
_COUNT = 2  # replicas
_FOR_GOOD = 2**30  # steps
_KINDS = (
    "images",
    "labels",
    "rate",
    "ramp",
    "nan",
    "nan on one replica",
    "nan at random",
    "gradient",
    "gradients",
    "weight",
    "loss",
)
_PERIOD = 100  # steps, of a wave on the loss
_TOP_OF_EXPONENT = 1 << 30  # of a float32


class Fault(NamedTuple):
    """What goes wrong.

    Attributes:
      kind: what is struck: one of `images`, `labels`, `rate`, `ramp`, `nan`, `nan on one replica`,
        `nan at random`, `gradient`, `gradients`, `weight` and `loss`.
      length: steps that it lasts; 0 is no fault.
      size: by what images, gradients or rate are multiplied, the rate of a ramp in every step anew;
        the share of minibatches that are NaN at random; the height of a wave on the loss.
      text: the same for people.
    """

    kind: str
    length: int
    size: float
    text: str


FAULTS: dict[str, Fault] = {
    "no fault": Fault("images", 0, 1, "the control, for false alarms"),
    "bad batch": Fault("images", 1, 1e3, "the images of one minibatch are 1,000 times too large"),
    "label noise": Fault("labels", 30, 1, "the labels of 30 minibatches are random"),
    "rate x 10": Fault("rate", _FOR_GOOD, 10, "the learning rate is 10 times too large, for good"),
    "rate x 1000": Fault("rate", _FOR_GOOD, 1e3, "the same, 1,000 times"),
    "rate x 1000, 20 steps": Fault("rate", 20, 1e3, "the same for 20 steps"),
    "rate ramp": Fault(
        "ramp", _FOR_GOOD, 2**0.02, "the learning rate doubles every 50 steps, to the end"
    ),
    "NaN loss": Fault("nan", 1, 1, "one minibatch is NaN: its loss and its gradient"),
    "NaN at 2 %": Fault(
        "nan at random", _FOR_GOOD, 0.02, "of all minibatches from here on, 2 % are NaN"
    ),
    "NaN at 10 %": Fault("nan at random", _FOR_GOOD, 0.1, "the same, 10 %"),
    "gradients x 20": Fault(
        "gradients", _FOR_GOOD, 20, "all gradients are 20 times as large, for good"
    ),
    "periodic loss": Fault(
        "loss", _FOR_GOOD, 0.5, "a wave of height 0.5 and period 100 lies on the loss, for good"
    ),
    "infinite gradient": Fault(
        "gradient", 1, 1, "one coordinate of one gradient is infinite, the loss is not"
    ),
    "NaN on one replica": Fault(
        "nan on one replica", 1, 1, "as NaN loss, on one of the two data-parallel replicas"
    ),
    "bit flip": Fault(
        "weight", 1, 1, "the top bit of the exponent of one weight of the first layer is flipped"
    ),
}
"""By name, as the table and the picture show them; the first is none."""


class Case(NamedTuple):
    """A run to do, scalars, or arrays of one shape for many runs.

    Attributes:
      kind: index of the kind of fault.
      start: step of the fault, from 0.
      length: of the fault, in steps.
      size: of the fault.
      seed: of the initial parameters, the minibatches and the fault.
    """

    kind: Any
    start: Any
    length: Any
    size: Any
    seed: Any


class Course(NamedTuple):
    """How a run went.

    Attributes:
      errors: share of the test images that are wrong, every `EVERY` steps.
      losses: their mean loss, at the same steps.
      alarms: for every step, whether it was an alarm.
      united: whether the replicas have the same parameters at the end.
    """

    errors: Any
    losses: Any
    alarms: Any
    united: Any


def case(fault: Fault, start: int, seed: int) -> Case:
    """The run with this fault from this step on."""
    return Case(_KINDS.index(fault.kind), start, fault.length, np.float32(fault.size), seed)


def runner(
    guard: GuardedOptimizer, model: nn.Module, dataset: Dataset, steps: int
) -> Callable[[Case], Course]:
    """A function, to be compiled, that does one run of a multiple of `EVERY` steps."""
    train, test = (Examples(*map(jnp.asarray, split)) for split in dataset)
    ratio = BATCH / len(train.labels)

    def run(case: Case) -> Course:
        init_key, order_key = keys(case.seed)
        params = model.init(init_key, train.inputs[:1])["params"]
        state = guard.make(guard.learning_rate, ratio).init(params)
        carry = jax.tree.map(lambda leaf: jnp.stack([leaf] * _COUNT), (params, state))

        def one_step(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
            key = jax.random.fold_in(order_key, step)
            rows = jax.random.randint(key, (_COUNT, BATCH // _COUNT), 0, len(train.labels))

            def on_replica(params: Any, state: Any, rows: jax.Array) -> Any:
                batch = Examples(train.inputs[rows], train.labels[rows])
                return _faulty_step(guard, model, case, ratio, step, key, params, state, batch)

            params, state = jax.vmap(on_replica, axis_name=REPLICAS)(carry[0], carry[1], rows)
            alarm = jnp.zeros(()) if guard.alarm is None else jax.vmap(guard.alarm)(state)
            return (params, state), jnp.any(alarm)

        def some_steps(carry: Any, start: jax.Array) -> tuple[Any, Any]:
            carry, alarms = jax.lax.scan(one_step, carry, start + jnp.arange(EVERY))
            params = jax.tree.map(lambda leaf: leaf[0], carry[0])
            return carry, (evaluate(model, {"params": params}, test), alarms)

        carry, (evaluation, alarms) = jax.lax.scan(some_steps, carry, jnp.arange(0, steps, EVERY))
        same = [
            jnp.array_equal(leaf[0], leaf[1], equal_nan=True) for leaf in jax.tree.leaves(carry[0])
        ]
        return Course(
            evaluation.error, evaluation.loss, alarms.reshape(-1), jnp.all(jnp.stack(same))
        )

    return run


def _faulty_step(
    guard: GuardedOptimizer,
    model: nn.Module,
    case: Case,
    ratio: float,
    step: jax.Array,
    key: jax.Array,
    params: Any,
    state: Any,
    batch: Examples,
) -> tuple[Any, Any]:
    """One step of one replica, with the fault where it is due."""
    since = step - case.start
    due = (since >= 0) & (since < case.length)

    def struck(kind: str) -> jax.Array:
        return jnp.asarray(due & (case.kind == _KINDS.index(kind)))

    noise = jax.random.randint(key, batch.labels.shape, 0, 10)
    labels = jnp.where(struck("labels"), noise, batch.labels)
    here = struck("nan on one replica") & (jax.lax.axis_index(REPLICAS) == 0)
    images = batch.inputs * jnp.where(struck("images"), case.size, 1)
    often = struck("nan at random") & (jax.random.uniform(jax.random.fold_in(key, 1)) < case.size)
    images = jnp.where(struck("nan") | often | here, jnp.nan, images)
    params = _one_weight(params, key, lambda w: jnp.where(struck("weight"), _flipped(w), w))

    def minibatch_loss(params: Any) -> jax.Array:
        logits = jnp.asarray(model.apply({"params": params}, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(minibatch_loss)(params)
    grads = jax.lax.pmean(grads, REPLICAS)
    grads = _one_weight(grads, key, lambda g: jnp.where(struck("gradient"), jnp.inf, g))
    grads = jax.tree.map(lambda g: g * jnp.where(struck("gradients"), case.size, 1), grads)
    wave = case.size * jnp.sin(2 * jnp.pi * since / _PERIOD)
    loss += jnp.where(struck("loss"), wave, 0)
    rate = guard.learning_rate * jnp.where(struck("rate"), case.size, 1)
    rate *= jnp.where(struck("ramp"), case.size ** (since + 1), 1)
    return salera_optax.step(guard.make(rate, ratio), grads, state, params, value=loss)


def _one_weight(tree: Any, key: jax.Array, change: Callable[[jax.Array], jax.Array]) -> Any:
    """Changes one number, drawn by the key, of the kernel of the first layer."""
    kernel = tree["Dense_0"]["kernel"]
    row, column = (jax.random.randint(key, (), 0, size) for size in kernel.shape)
    kernel = kernel.at[row, column].set(change(kernel[row, column]))
    return {**tree, "Dense_0": {**tree["Dense_0"], "kernel": kernel}}


def _flipped(weight: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(weight, jnp.uint32)
    return jax.lax.bitcast_convert_type(bits ^ _TOP_OF_EXPONENT, jnp.float32)
