"""Without Flax, and where a train state cannot go on, a message says what to do."""

import importlib
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training import train_state
from flax_training import NnxNet, linen_state

import salera_optax
from salera_optax import flax as salera_flax


def test_without_flax_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.delitem(sys.modules, "salera_optax.flax")
    with pytest.raises(ImportError, match=r"needs Flax.*pip install 'salera_optax\[flax\]'"):
        importlib.import_module("salera_optax.flax")


class TestErrors:
    grads = property(lambda self: jax.tree.map(jnp.ones_like, self.state().params))

    def state(self, tx=None):
        return linen_state(tx or salera_optax.salera(0.1))

    def test_missing_value(self):
        with pytest.raises(TypeError, match=r"apply_gradients: missing argument 'value'"):
            self.state().apply_gradients(grads=self.grads)

    def test_unknown_field(self):
        with pytest.raises(TypeError, match="batch_stat"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stat={})

    def test_other_structure(self):
        with pytest.raises(ValueError, match=r"apply_gradients: batch_stats must have the tree"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stats={})

    def test_other_shape(self):
        stats = jax.tree.map(lambda x: x[:2], self.state().batch_stats)
        with pytest.raises(ValueError, match=r"batch_stats must have the shapes.*BatchNorm_0/mean"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)

    def test_state_made_without_a_guard(self):
        state, tx = self.state(optax.sgd(0.1)), salera_optax.salera(0.1)
        state = state.replace(tx=tx, opt_state=tx.init(state.params))
        with pytest.raises(ValueError, match=r"batch_stats could not come back.*not created with"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=state.batch_stats)

    def test_state_made_without_the_collection(self):
        stats = self.state().batch_stats
        state = self.state().replace(batch_stats=None)
        with pytest.raises(ValueError, match=r"the batch_stats of the state must have the tree"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)
        state = salera_flax.TrainState.create(
            apply_fn=None, params=self.grads, tx=salera_optax.salera(0.1)
        )
        with pytest.raises(ValueError, match=r"batch_stats could not come back.*not created with"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)

    def test_flax_s_own_state_with_a_guard(self):
        state = train_state.TrainState.create(
            apply_fn=None, params=self.grads, tx=salera_optax.salera(0.1)
        )
        with pytest.raises(TypeError, match=r"missing argument 'value'.*salera_optax\.flax"):
            state.apply_gradients(grads=self.grads)

    def test_guard_that_came_later_and_no_collections(self):
        state, tx = self.state(optax.sgd(0.1)), salera_optax.salera(0.1)
        state = state.replace(tx=tx, opt_state=tx.init(state.params))
        assert state.apply_gradients(grads=self.grads, value=1.0).snapshot is None

    def test_optimizer_state_without_a_guard(self):
        state = self.state(optax.sgd(0.1)).replace(tx=salera_optax.salera(0.1))
        with pytest.raises(TypeError, match=r"state must be the PageHinkleyState.*checkpoint"):
            state.apply_gradients(grads=self.grads, value=1.0)

    def test_nnx_missing_value(self):
        net = NnxNet(nnx.Rngs(0))
        optimizer = salera_flax.Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
        grads = nnx.state(net, nnx.Param)
        with pytest.raises(TypeError, match=r"'value'.*call update\(model, grads, value=loss\)"):
            optimizer.update(net, grads)

    def test_nnx_other_model(self):
        net = NnxNet(nnx.Rngs(0))
        optimizer = salera_flax.Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
        other = NnxNet(nnx.Rngs(0), width=5)
        with pytest.raises(ValueError, match=r"update: the batch statistics must have the shapes"):
            optimizer.update(other, nnx.state(net, nnx.Param), value=1.0)
