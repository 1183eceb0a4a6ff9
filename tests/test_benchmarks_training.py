"""The pure functions of a run: its error, the order of its epochs, and many runs at once."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from benchmark_runs import digits_on_device

from benchmarks import models, optimizers, training


def test_a_number_is_wrong_when_it_is_not_within_the_tolerance_of_the_label():
    class Echo(nn.Module):
        def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
            return inputs

    outputs = np.array([[1.0], [1.07], [0.91], [np.nan]], np.float32)
    examples = training.Examples(jax.numpy.asarray(outputs), jax.numpy.ones(4))

    assert training.evaluate(Echo(), {}, examples).error == 0.5
    assert training.evaluate(
        Echo(), {}, training.Examples(examples.inputs[:3], examples.labels[:3])
    ).loss == pytest.approx((0.07**2 + 0.09**2) / 3, rel=1e-5)


def test_an_epoch_takes_every_image_once_and_each_epoch_in_its_own_order():
    key = jax.random.key(0)
    first, second = (np.asarray(training.epoch_order(key, epoch, 100, 10)) for epoch in (1, 2))

    assert sorted(first.ravel()) == list(range(100))
    assert first.shape == second.shape == (10, 10)
    assert (first != second).any()


def test_a_vectorised_run_over_seeds_gives_what_each_seed_gives_alone():
    model = models.MODELS["m0"]("digits")
    tx = optimizers.build("alera", {"learning_rate": 0.1}, total_steps=1, minibatch_ratio=0.01)
    examples = digits_on_device()

    @jax.jit
    def losses(key: jax.Array) -> jax.Array:
        order = training.epoch_order(key, 1, examples.labels.size, 100)
        carry = training.init(model, tx, key, examples)
        return training.train_chunk(model, tx, carry, examples, order)[1].loss

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(losses)(keys)
    np.testing.assert_allclose(together, [losses(key) for key in keys], rtol=1e-4)
