"""Many runs at once: `vmap` over seeds and hyperparameters equals the runs one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

STEPS = 80
SEEDS = jnp.arange(6)
RATES = jnp.array([1e-3, 0.1, 1.0, 3.0, 30.0, 1000.0])  # the last three explode


def salera(rate, extra):
    law = salera_optax.ratio(0.01 * extra)
    detector = salera_optax.published(smoothing=extra)
    return salera_optax.salera(rate, law=law, detector=detector, alpha=0.1 * extra)


def spalera(rate, extra):
    detector = salera_optax.published(threshold=extra)
    return salera_optax.spalera(rate, law=salera_optax.score(1e-3 * extra), detector=detector)


def guarded_adam(rate, extra):
    adam = optax.adam(rate, b1=0.9 * extra)
    return salera_optax.page_hinkley(adam, factor=extra)


def guarded_momentum(rate, extra):
    momentum = optax.sgd(rate, momentum=0.9 * extra)
    return salera_optax.page_hinkley(momentum, salera_optax.robust(), factor=extra)


def run(make, seed, rate, extra):
    """A whole run from its seed; returns the parameters, the state, and the alarm of every step."""
    keys = jax.random.split(jax.random.key(seed), 3)
    inputs = jax.random.normal(keys[0], (STEPS, 16, 4))
    params = {
        "w1": 0.5 * jax.random.normal(keys[1], (4, 8)),
        "w2": 0.5 * jax.random.normal(keys[2], (8, 1)),
    }
    tx = make(rate, extra)

    def loss_fn(params, inputs):
        outputs = jnp.tanh(inputs @ params["w1"]) @ params["w2"]
        return jnp.mean((outputs - inputs.sum(1, keepdims=True)) ** 2)

    def one_step(carry, inputs):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, inputs)
        params, state = salera_optax.step(tx, grads, state, params, value=loss)
        return (params, state), salera_optax.metrics(state)["alarm"]

    return jax.lax.scan(one_step, (params, tx.init(params)), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("make", [salera, spalera, guarded_adam, guarded_momentum])
def test_runs_side_by_side_equal_the_runs_one_by_one(make):
    with jax.enable_x64(True):  # far too large a rate lets the rounding of two programs grow
        members = SEEDS, RATES.astype(float), jnp.linspace(0.1, 0.6, len(SEEDS))
        together = jax.jit(jax.vmap(lambda *member: run(make, *member)))(*members)
        single = jax.jit(lambda *member: run(make, *member))
        one_by_one = [single(*member) for member in zip(*members, strict=True)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one)
        np.testing.assert_array_equal(together[1], stacked[1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), together, stacked
        )
        alarms = np.asarray(together[1]).sum(1)
        assert (alarms > 0).any()
        assert (alarms == 0).any()
