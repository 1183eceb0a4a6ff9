"""A training run that `test_checkpoints.py` interrupts: `python resume.py FOLDER STEP...`.

Continues from the checkpoint of every step named, and writes the last states to FOLDER.
"""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import salera_optax
from salera_optax.flax import TrainState

STEPS = 36
FAULTS = slice(18, 27)  # three steps of the accumulated run
ALARMS = {"salera": 20, "adam": 20, "accumulated": 26}
INPUTS = jax.random.normal(jax.random.key(0), (STEPS, 16, 3)).at[FAULTS].multiply(1e5)
OPTIMIZERS = {
    "salera": salera_optax.salera(0.1),
    "adam": salera_optax.page_hinkley(optax.adam(0.01)),
    "accumulated": salera_optax.MultiSteps(salera_optax.salera(0.1), 3),
}


class Net(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=False)(nn.Dense(8)(inputs)))


def fresh(name):
    variables = Net().init(jax.random.key(1), INPUTS[0])
    return TrainState.create(
        apply_fn=Net().apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=OPTIMIZERS[name],
    )


@jax.jit
def train_step(state, inputs):
    def loss_fn(params):
        outputs, changed = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats}, inputs, mutable=["batch_stats"]
        )
        targets = inputs.sum(1, keepdims=True)
        return jnp.mean((outputs - targets) ** 2), changed["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, value=loss, batch_stats=batch_stats)


def train(state, after_step=lambda state: None):
    """Goes on to the last step."""
    for step in range(int(state.step), STEPS):
        state = train_step(state, INPUTS[step])
        after_step(state)
    return state


def main(folder, steps):
    for name in OPTIMIZERS:
        with ocp.CheckpointManager(folder / name) as manager:
            for step in steps:
                target = jax.eval_shape(lambda name=name: fresh(name))
                state = manager.restore(step, args=ocp.args.StandardRestore(target))
                last = jax.tree.map(np.asarray, jax.tree.leaves(train(state)))
                np.savez(folder / f"{name}-{step}.npz", *last)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(step) for step in sys.argv[2:]])
