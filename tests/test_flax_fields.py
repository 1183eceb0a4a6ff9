"""The fields of the train state for Linen: those that it takes, and those that come back."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import core
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax_training import (
    INPUTS,
    alarms,
    assert_same_bits,
    linen_state,
    linen_step,
    loss_and_gradient,
    train,
)

import salera_optax
from salera_optax import flax as salera_flax


def test_linen_subclass_may_redeclare_the_batch_statistics():
    class State(salera_flax.TrainState):
        batch_stats: dict
        scale: jax.Array  # without a default, as in Flax's ImageNet example

    state = linen_state(salera_optax.salera(0.01), State, scale=jnp.ones(()))
    assert linen_step(state, INPUTS[0]).batch_stats["BatchNorm_0"]["mean"].shape == (8,)


def test_linen_takes_frozen_and_thawed_collections():
    state = linen_state(salera_optax.salera(0.01))
    frozen = salera_flax.TrainState.create(
        apply_fn=state.apply_fn,
        params=state.params,
        tx=state.tx,
        batch_stats=core.freeze(state.batch_stats),
    )
    after = linen_step(frozen, INPUTS[0])
    assert isinstance(after.batch_stats, core.FrozenDict)
    assert_same_bits(after.batch_stats.unfreeze(), linen_step(state, INPUTS[0]).batch_stats)


def test_linen_takes_frozen_statistics_loaded_after_create():
    params, stats = {"w": jnp.ones(3)}, {"norm": {"mean": jnp.ones(2)}}
    state = salera_flax.TrainState.create(
        apply_fn=None, params=params, batch_stats=stats, tx=salera_optax.salera(0.01)
    )
    state = state.replace(batch_stats=core.freeze(stats))
    new = jax.tree.map(lambda x: x + 1, stats)
    state = state.apply_gradients(grads=params, value=1.0, batch_stats=new)
    assert_same_bits(state.batch_stats, new)
    moved = state.params
    for _ in range(8):
        state = state.apply_gradients(grads=params, value=jnp.nan, batch_stats=stats)
        assert_same_bits((state.params, state.batch_stats), (moved, new))
    state = state.apply_gradients(grads=params, value=jnp.nan, batch_stats=new)
    assert alarms(state) == 1
    assert_same_bits((state.params, state.batch_stats), (params, stats))


def test_linen_takes_empty_collections_of_a_model_without_any():
    state = salera_flax.TrainState.create(
        apply_fn=None, params={"w": jnp.ones(3)}, tx=salera_optax.salera(0.01)
    )
    for _ in range(2):
        state = state.apply_gradients(grads=state.params, value=1.0, batch_stats={})
    assert state.batch_stats == {}


def test_linen_fields_that_are_not_given_may_change_their_shape():
    state = linen_state(
        salera_optax.salera(0.01), WithKey, spectra={"u": jnp.ones(3)}, key=jax.random.key(0)
    )
    state = linen_step(state.replace(spectra={"u": jnp.ones(4), "v": jnp.ones(2)}), INPUTS[0])
    state = linen_step(state.replace(spectra=None), INPUTS[1])
    back = train(state, [np.nan * INPUTS[2]] * 9)
    assert alarms(back) == 1
    assert back.spectra is None
    assert not np.array_equal(back.params["Dense_1"]["bias"], state.params["Dense_1"]["bias"])


class WithKey(salera_flax.TrainState):
    """A subclass written as for Flax, its fields without defaults."""

    spectra: dict
    key: jax.Array


def test_linen_only_what_apply_gradients_is_given_comes_back():
    state = linen_state(
        salera_optax.salera(0.01), WithKey, spectra={"u": jnp.ones(3)}, key=jax.random.key(0)
    )

    @jax.jit
    def step(state, inputs):
        loss, batch_stats, grads = loss_and_gradient(state, inputs)
        spectra = jax.tree.map(lambda u: u + loss, state.spectra)
        state = state.replace(key=jax.random.split(state.key)[0])
        return state.apply_gradients(
            grads=grads, value=loss, batch_stats=batch_stats, spectra=spectra
        )

    states = [state]
    for inputs in [*INPUTS[:5], *[np.nan * INPUTS[5]] * 9]:
        states.append(step(states[-1], inputs))
    assert alarms(states[-1]) == 1
    assert_same_bits(states[-2].spectra, states[5].spectra)
    assert_same_bits(states[-1].spectra, states[4].spectra)
    assert not np.array_equal(states[5].spectra["u"], states[4].spectra["u"])
    keys = [jax.random.key_data(state.key).tolist() for state in states]
    assert all(keys.count(key) == 1 for key in keys)


def test_linen_keeps_the_scales_of_fp8_beside_the_parameters():
    params = {"params": {"w": jnp.ones(3)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.ones(())}}
    state = salera_flax.TrainState.create(
        apply_fn=None, params=params, tx=salera_optax.salera(0.01)
    )
    grads = {"params": {"w": jnp.ones(3)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.float32(7)}}
    state = state.apply_gradients(grads=grads, value=1.0)
    assert float(state.params[OVERWRITE_WITH_GRADIENT]["scale"]) == 7
    assert float(state.params["params"]["w"][0]) < 1
    grads[OVERWRITE_WITH_GRADIENT]["scale"] = jnp.float32(np.nan)
    state = state.apply_gradients(grads=grads, value=jnp.nan)
    assert float(state.params[OVERWRITE_WITH_GRADIENT]["scale"]) == 7
