"""The runs that `devices.py` compares: a network on one device, and laid out on eight."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import salera_optax

STEPS = 30
ALARM = 20  # the last step whose targets are wrong, which is certain then
HELD = 5  # an earlier step that is broken alone
SIZE = 64
LAW = salera_optax.score(0.01)  # moves the rates far enough to tell a wrong norm or dimension
OPTIMIZERS = {
    "salera": partial(salera_optax.salera, law=LAW),
    "spalera": partial(salera_optax.spalera, law=LAW),
    "guarded ag_adam": lambda rate, axis_name=None: salera_optax.page_hinkley(
        salera_optax.ag_adam(rate, axis_name=axis_name), axis_name=axis_name
    ),
}


class Layout(NamedTuple):
    """A mesh, and how it holds the parameters; the minibatch is split over `data`."""

    shape: tuple[int, ...]
    names: tuple[str, ...]
    specs: dict[str, P]


LAYOUTS = {
    "data parallel": Layout((8,), ("data",), {"w1": P(), "b1": P(), "w2": P()}),
    "fully sharded": Layout(
        (8,), ("data",), {"w1": P(None, "data"), "b1": P("data"), "w2": P("data")}
    ),
    "two axes": Layout(
        (4, 2), ("data", "model"), {"w1": P("data", "model"), "b1": P("model"), "w2": P("model")}
    ),
    "tensor parallel": Layout(
        (4, 2), ("data", "model"), {"w1": P(None, "model"), "b1": P("model"), "w2": P("model")}
    ),
}

each_layout_and_each_optimizer = pytest.mark.parametrize(
    ("layout", "name"),
    [(layout, "salera") for layout in LAYOUTS]
    + [("two axes", name) for name in OPTIMIZERS if name != "salera"],
)


def parameters():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "w1": 0.3 * jax.random.normal(keys[0], (8, 16)),
        "b1": jnp.zeros(16),
        "w2": 0.3 * jax.random.normal(keys[1], (16, 1)),
    }


def data(fault=1e4):
    keys = jax.random.split(jax.random.key(1), 2)
    inputs = jax.random.normal(keys[0], (STEPS, SIZE, 8))
    targets = inputs.sum(2, keepdims=True) + 0.1 * jax.random.normal(keys[1], (STEPS, SIZE, 1))
    # One example, hence one device, is broken; a NaN is only held before it is an alarm.
    calls = 9 if np.isnan(fault) else 3
    return inputs, targets.at[ALARM + 1 - calls : ALARM + 1, -1].add(fault)


def loss_fn(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["w1"] + params["b1"])
    return jnp.mean((hidden @ params["w2"] - targets) ** 2)


def train(tx, params, inputs, targets, state=None):
    """One device's idea of a run: the last parameters and state, and the step of every alarm."""

    def one_step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        params, state = salera_optax.step(tx, grads, state, params, value=loss)
        return (params, state), salera_optax.metrics(state)["alarm"]

    carry = (params, tx.init(params) if state is None else state)
    return jax.lax.scan(one_step, carry, (inputs, targets))


@cache
def on_one_device(name, fault=1e4):
    tx = OPTIMIZERS[name](0.1)
    (params, state), alarm = jax.jit(train, static_argnums=0)(tx, parameters(), *data(fault))
    assert np.flatnonzero(alarm).tolist() == [ALARM]
    return params, state


def assert_close(actual, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), actual, expected
    )


def make_mesh(layout, axis_type):
    return jax.make_mesh(layout.shape, layout.names, (axis_type,) * len(layout.names))


def placed(layout, mesh, fault=1e4):
    """The parameters and the data on the devices of the mesh."""
    params = jax.tree.map(
        lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)),
        parameters(),
        layout.specs,
    )
    split = NamedSharding(mesh, P(None, "data"))
    return params, *(jax.device_put(array, split) for array in data(fault))


def shardings(tree):
    return jax.tree.map(lambda x: x.sharding.spec, tree)
