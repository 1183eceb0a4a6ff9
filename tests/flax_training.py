"""A small model in Linen and in NNX and its steps, for `test_flax_*.py`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import salera_optax
from salera_optax import flax as salera_flax

INPUTS = jax.random.normal(jax.random.key(0), (40, 16, 3))
GUARDED = [
    pytest.param(salera_optax.salera(0.01), id="salera"),
    pytest.param(salera_optax.page_hinkley(optax.adam(0.01)), id="adam", marks=pytest.mark.slow),
    pytest.param(
        optax.chain(
            salera_optax.page_hinkley(optax.sgd(0.1, momentum=0.9)),
            optax.clip_by_global_norm(100.0),
        ),
        id="chain",
        marks=pytest.mark.slow,
    ),
]


def assert_same_bits(actual, expected):
    def check(a, e):
        assert a.dtype == e.dtype
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()

    jax.tree.map(check, actual, expected)


def alarms(state):
    return int(salera_optax.metrics(state.opt_state)["alarms"])


def holds(state):
    return int(salera_optax.metrics(state.opt_state)["holds"])


# ------------------------------------------------------------------------------------ Linen


class Net(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=True):
        features = nn.Dense(8)(inputs)
        features = nn.BatchNorm(use_running_average=not train, momentum=0.9)(features)
        return nn.Dense(1)(nn.relu(features))


def linen_state(tx, cls=salera_flax.TrainState, **fields):
    variables = Net().init(jax.random.key(1), INPUTS[0])
    return cls.create(
        apply_fn=Net().apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=tx,
        **fields,
    )


@jax.jit
def loss_and_gradient(state, inputs):
    def loss_fn(params):
        outputs, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats}, inputs, mutable=["batch_stats"]
        )
        return jnp.mean((outputs - inputs.sum(1, keepdims=True)) ** 2), changed["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return loss, batch_stats, grads


@jax.jit
def linen_step(state, inputs):
    loss, batch_stats, grads = loss_and_gradient(state, inputs)
    return state.apply_gradients(grads=grads, value=loss, batch_stats=batch_stats)


def train(state, inputs):
    for batch in inputs:
        state = linen_step(state, batch)
    return state


# -------------------------------------------------------------------------------------- NNX


class NnxNet(nnx.Module):
    def __init__(self, rngs, width=8):
        self.first = nnx.Linear(3, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.last(nnx.relu(self.norm(self.first(inputs))))


@nnx.jit
def nnx_step(net, optimizer, inputs):
    def loss_fn(net):
        return jnp.mean((net(inputs) - inputs.sum(1, keepdims=True)) ** 2)

    loss, grads = nnx.value_and_grad(loss_fn)(net)
    optimizer.update(net, grads, value=loss)


def contents(net):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, (nnx.Param, nnx.BatchStat))))


def nnx_pair(tx, cls=salera_flax.Optimizer):
    net = NnxNet(nnx.Rngs(0))
    return net, cls(net, tx, wrt=nnx.Param)
