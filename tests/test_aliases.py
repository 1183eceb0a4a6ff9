"""Where salera_adamw starts: at a small share of the parameters' size, near the given rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

PARAMS = {"kernel": 0.1 * jnp.ones((3, 4)), "bias": jnp.zeros(4)}


def multipliers(tx, params=PARAMS):
    """The first self-tuned rates, which multiply the learning rate."""
    rates = optax.tree.get(tx.init(params), "log_rate")
    return {name: float(jnp.exp(rate)) for name, rate in rates.items()}


def test_a_rate_that_is_small_beside_the_parameters_is_taken_as_it_is():
    assert multipliers(salera_optax.salera_adamw(1e-4)) == {"bias": 1, "kernel": 1}


@pytest.mark.parametrize("rate", [1e-3, 1.0, lambda step: 10.0 * (step + 1)])
def test_a_larger_one_starts_from_a_share_of_the_size_of_all_parameters(rate):
    given = rate(0) if callable(rate) else rate
    for groups in (None, "all"):
        found = multipliers(salera_optax.salera_adamw(rate, groups=groups))
        for multiplier in found.values():
            size = 0.1 * np.sqrt(12 / 16)
            assert multiplier * given == pytest.approx(0.003 * size, rel=1e-5)


@pytest.mark.parametrize("rate", [1e-5, 1e-30])
def test_a_smaller_one_starts_from_a_tenth_of_that(rate):
    for multiplier in multipliers(salera_optax.salera_adamw(rate)).values():
        assert multiplier * rate == pytest.approx(0.0003 * 0.1 * np.sqrt(12 / 16), rel=1e-4)


def test_a_schedule_may_start_from_less():
    warm_up = optax.warmup_constant_schedule(1e-9, 1e-3, 100)
    assert multipliers(salera_optax.salera_adamw(warm_up)) == {"bias": 1, "kernel": 1}


@pytest.mark.parametrize("rate", [0.0, lambda step: 0.1 * step])
def test_a_rate_of_zero_and_parameters_of_zero_have_no_limit(rate):
    assert multipliers(salera_optax.salera_adamw(rate)) == {"bias": 1, "kernel": 1}
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    assert multipliers(salera_optax.salera_adamw(1.0), zero) == {"bias": 1, "kernel": 1}


@pytest.mark.parametrize("rates", [(1.0, 1e4), (1e-6, 1e-9)])
def test_far_off_the_size_of_the_parameters_it_is_the_same_run(rates):
    def loss_fn(params, x):
        return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"]) - 0.3) ** 2)

    def trained(rate):
        tx = salera_optax.salera_adamw(rate, weight_decay=0.0)

        def one_step(carry, key):
            params, state = carry
            x = jax.random.normal(key, (8, 3))
            loss, grads = jax.value_and_grad(loss_fn)(params, x)
            return salera_optax.step(tx, grads, state, params, value=loss), None

        keys = jax.random.split(jax.random.key(0), 50)
        (params, _), _ = jax.lax.scan(one_step, (PARAMS, tx.init(PARAMS)), keys)
        return params

    one, other = map(trained, rates)
    np.testing.assert_allclose(other["kernel"], one["kernel"], rtol=1e-3)


def test_a_schedule_may_need_an_array_and_the_parameters_may_be_many():
    tx = salera_optax.salera_adamw(lambda step: 0.1 / jnp.sqrt(step.astype(jnp.float32) + 1))
    assert multipliers(tx)["kernel"] < 1
    many = {"w": jax.ShapeDtypeStruct((50_000, 50_000), jnp.float32)}
    jax.eval_shape(tx.init, many)


def test_its_state_may_be_donated():
    tx = salera_optax.salera_adamw(1.0)
    step = jax.jit(
        lambda params, state: salera_optax.step(tx, params, state, params, value=1.0),
        donate_argnums=(0, 1),
    )
    params, state = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS)
    params, state = step(params, state)
    assert jax.tree.all(jax.tree.map(lambda p: jnp.isfinite(p).all(), params))


def test_under_jit_and_with_abstract_parameters_it_starts_too():
    tx = salera_optax.salera_adamw(1.0)
    jitted = jax.jit(tx.init)(PARAMS)
    np.testing.assert_allclose(
        optax.tree.get(jitted, "log_rate")["kernel"], np.log(0.0003 * np.sqrt(0.75)), rtol=1e-5
    )
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    assert jax.tree.structure(tx.init(abstract)) == jax.tree.structure(jitted)
    nothing = tx.init({})
    assert jax.tree.structure(nothing) == jax.tree.structure(jax.eval_shape(tx.init, {}))


def test_a_sharded_leaf_is_measured_as_a_whole():
    kernel = jnp.arange(1.0, 5.0)
    tx = salera_optax.salera_adamw(1.0, axis_name="x")
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")

    def first(kernel: jax.Array) -> jax.Array:
        return optax.tree.get(tx.init({"kernel": kernel}), "log_rate")["kernel"]

    whole = jax.sharding.PartitionSpec()
    inside = jax.jit(jax.shard_map(first, mesh=mesh, in_specs=spec, out_specs=whole))(kernel)
    np.testing.assert_allclose(inside, jax.jit(first)(kernel), rtol=1e-6)
