"""The models take the data that they are for, and compute what they say."""

import jax
import numpy as np
import pytest

from benchmarks import data, models, optimizers, training


@pytest.mark.parametrize("dataset", ["digits", pytest.param("adding", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [name for name in models.MODELS if "m4" not in name])
def test_every_model_takes_images_and_sequences(model: str, dataset: str):
    network = models.MODELS[model](dataset)
    examples = training.Examples(
        *(jax.numpy.asarray(part[:20]) for part in data.load(dataset).test)
    )
    carry = training.init(
        network, optimizers.OPTIMIZERS["sgd"].factory(0), jax.random.key(0), examples
    )

    evaluation = training.evaluate(network, training.variables(carry, None), examples)

    assert 0 < evaluation.error <= 1
    assert 0 < evaluation.loss < 5


def test_convolution_as_a_product_is_that_of_jax():
    images, kernel = (
        np.random.default_rng(0).normal(size=shape).astype(np.float32)
        for shape in ((2, 7, 6, 3), (5, 4, 3, 8))
    )
    wanted = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

    found = models._convolved(images, kernel)

    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_recurrent_network_and_adding_problem_are_the_default_for_each_other():
    assert models.default_dataset("rnn") == "adding"
    assert models.default_model("adding") == "rnn"
    assert models.default_model(models.default_dataset(None)) == "mlp"
