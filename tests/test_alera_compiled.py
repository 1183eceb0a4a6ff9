"""The compiled step of ALERA: how many kernels XLA has to compile and to start."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

# conftest.py has the suite compiled by another emitter, which fuses other loops.
FASTER = "fusion_emitters" in os.environ["XLA_FLAGS"]
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if FASTER else {}


def compiled(tx, params):
    def train(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(train, donate_argnums=(0, 1)).lower(params, tx.init(params))
    return lowered.compile(AS_USERS_DO).as_text()


def kernels(text):
    """The different bodies of the fused loops: XLA compiles equal ones once."""
    bodies = re.findall(r"^%?fused_computation\S* (\(.*?\n)}", text, re.MULTILINE | re.DOTALL)
    bodies = [re.sub(r", (metadata|backend_config)=.*", "", body) for body in bodies]
    found = set()
    for body in bodies:
        names = {}
        plain = re.sub(r"param_[\w.]+:|to_apply=\S+|/\*index=\d+\*/", "", body)
        found.add(re.sub(r"%[\w.-]+", lambda m, n=names: str(n.setdefault(m[0], len(n))), plain))
    return found


def test_leaves_of_one_shape_share_their_kernels():
    tx = salera_optax.alera()
    few, many = (
        len(kernels(compiled(tx, {f"w{i}": jnp.ones((5, 7)) for i in range(count)})))
        for count in (20, 60)
    )
    assert few > 5
    assert many <= few + 5, "as many kernels, but for the lengths of the vectors"


@pytest.mark.parametrize("shape", [(33,), (64,), (10, 100), (3, 3, 1, 40), (1024,)])
def test_small_leaves_are_not_summed_by_windows(shape):
    tx = salera_optax.alera()
    assert "reduce-window" in jax.jit(jnp.sum).lower(jnp.ones(shape)).compile(AS_USERS_DO).as_text()
    text = compiled(tx, {"a": jnp.ones(shape), "b": jnp.ones(shape)})
    assert "reduce-window" not in text


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65])
def test_every_leaf_reads_the_rate_of_its_group(count):
    rng = np.random.default_rng(0)
    names = [f"{i:02}" for i in range(count)]
    params = {name: jnp.asarray(rng.standard_normal(3), jnp.float32) for name in names}
    tx = salera_optax.scale_by_alera(0.1)
    state = tx.init(params)
    rates = jnp.asarray(rng.standard_normal(count), jnp.float32)
    updates, state = tx.update(params, state._replace(log_rates=rates))
    assert list(state.log_rate) == names
    for name in names:
        expected = params[name] * jnp.exp(state.log_rate[name])
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
    np.testing.assert_allclose(state.log_rates, rates, atol=0.1)
