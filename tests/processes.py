"""One of several processes of a training run: `python processes.py FOLDER ADDRESS COUNT INDEX DIE`.

Trains on all devices of all processes, with a checkpoint every 5 steps, and goes on from the last
one there is. At step DIE the process kills itself. `test_processes.py` starts it.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import salera_optax

STEPS = 30
SIZE = 32
NAN_AT, EXPLODES_AT = 8, (20, 21, 22)
SPECS = {"w1": P(None, "data"), "b1": P("data"), "w2": P()}


def minibatch(step):
    """The whole minibatch; its last example, so the last process, is broken in some steps."""
    draw = np.random.default_rng(step)
    inputs = draw.normal(size=(SIZE, 8)).astype(np.float32)
    targets = inputs.sum(1, keepdims=True)
    if step == NAN_AT:
        inputs[-1] = np.nan
    if step in EXPLODES_AT:
        targets[-1] = 1e4
    return inputs, targets


def parameters():
    draw = np.random.default_rng(1000)
    return {
        "w1": 0.3 * draw.normal(size=(8, 16)).astype(np.float32),
        "b1": np.zeros(16, np.float32),
        "w2": 0.3 * draw.normal(size=(16, 1)).astype(np.float32),
    }


def loss_fn(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["w1"] + params["b1"])
    return jnp.mean((hidden @ params["w2"] - targets) ** 2)


TX = salera_optax.salera(0.01)


@jax.jit
def train_step(params, opt_state, inputs, targets):
    loss, grads = jax.value_and_grad(loss_fn)(params, inputs, targets)
    return salera_optax.step(TX, grads, opt_state, params, value=loss)


def main(folder, die):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))
    split = NamedSharding(mesh, P("data"))
    params = {
        name: jax.make_array_from_callback(
            value.shape, NamedSharding(mesh, SPECS[name]), lambda index, value=value: value[index]
        )
        for name, value in parameters().items()
    }
    opt_state = jax.jit(TX.init)(params)
    holds, alarms = [], []  # the steps, of this process's life
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        first = manager.latest_step() or 0
        if first:
            restored = manager.restore(first, args=ocp.args.StandardRestore((params, opt_state)))
            params, opt_state = restored
        for step in range(first, STEPS):
            if step == die:
                manager.wait_until_finished()
                os.kill(os.getpid(), signal.SIGKILL)
            rows = slice(
                jax.process_index() * SIZE // jax.process_count(),
                (jax.process_index() + 1) * SIZE // jax.process_count(),
            )
            batch = [
                jax.make_array_from_process_local_data(split, array[rows], array.shape)
                for array in minibatch(step)
            ]
            params, opt_state = train_step(params, opt_state, *batch)
            if opt_state.action.hold:
                holds.append(step)
            if opt_state.alarm:
                alarms.append(step)
            if (step + 1) % 5 == 0:
                manager.save(step + 1, args=ocp.args.StandardSave((params, opt_state)))
    whole = multihost_utils.process_allgather(params, tiled=True)
    if jax.process_index() == 0:
        np.savez(folder / "last.npz", first=first, holds=holds, alarms=alarms, **whole)


if __name__ == "__main__":
    folder, address, count, index, die = sys.argv[1:]
    if int(count) > 1:
        jax.distributed.initialize(address, int(count), int(index))
    main(Path(folder), int(die))
