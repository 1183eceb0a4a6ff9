"""The optimizers learn, take the options that are theirs, and are those that a user has."""

import inspect
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from benchmark_runs import digits_on_device

import salera_optax
from benchmarks import models, optimizers, training

LIMITED = ("salera", "alera")  # whose first steps are, from their default rates


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "salera_adamw"))
        for name in optimizers.OPTIMIZERS
    ],
)
def test_every_optimizer_learns_at_its_default_learning_rate(name: str):
    model = models.MODELS["m0"]("digits")
    (values,) = optimizers.hyperparameters([name], {})
    tx = optimizers.build(name, values, total_steps=400, minibatch_ratio=0.01)
    examples = digits_on_device()
    carry = training.init(model, tx, jax.random.key(0), examples)
    epochs = [
        training.epoch_order(jax.random.key(0), e, examples.labels.size, 15) for e in range(4)
    ]
    order = jax.numpy.concatenate(epochs)

    _, records = jax.jit(partial(training.train_chunk, model, tx))(carry, examples, order)

    assert records.loss[-20:].mean() < 0.7 * records.loss[0]
    for key, rate in records.metrics.items():
        if key.startswith("learning_rate/") and name not in LIMITED:
            assert rate[0] == pytest.approx(values["learning_rate"], rel=0.05)


@pytest.mark.parametrize("name", ["sgd", "nag", "adagrad", "adam"])
def test_a_guarded_optimizer_takes_its_own_options_and_those_of_the_guard(name: str):
    (plain,) = optimizers.hyperparameters([name], {})
    (guarded,) = optimizers.hyperparameters([f"guarded-{name}"], {"factor": 0.7})
    guard = inspect.signature(salera_optax.page_hinkley).parameters

    assert set(guarded) - set(plain) == set(guard) - {"inner"}
    assert plain.items() <= guarded.items()
    assert guarded["factor"] == 0.7
    with pytest.raises(ValueError, match="factor must be"):
        optimizers.build(
            f"guarded-{name}", guarded | {"factor": 0}, total_steps=1, minibatch_ratio=0.01
        )


@pytest.mark.parametrize("name", ["salera_adamw", "salera", "alera", "ag_adam", "spalera"])
def test_ours_are_compared_as_a_user_has_them(name: str):
    (values,) = optimizers.hyperparameters([name], {})
    compared = optimizers.build(name, values, total_steps=1, minibatch_ratio=0.01)
    rate = (values["learning_rate"],) if name == "spalera" else ()  # which has no default
    params = jnp.linspace(-1, 1, 50)
    states = []
    for tx in (compared, getattr(salera_optax, name)(*rate)):
        x, state = params, tx.init(params)
        for key in jax.random.split(jax.random.key(0), 20):
            grads = x + jax.random.normal(key, x.shape)
            x, state = salera_optax.step(tx, grads, state, x, value=1.0)
        states.append((x, state))
    chex.assert_trees_all_equal(*states)
