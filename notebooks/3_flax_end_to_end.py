# ---
# jupyter:
#   jupytext:
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Flax end to end
#
# To run it: `pip install -e '.[benchmarks]'` in a clone, and Jupyter.
#
# From a Flax model to a figure for a paper: linen and nnx with batch statistics, a checkpoint and a
# resume that is bit for bit the run it interrupts, a mesh of eight devices, and at last many seeds
# and initial rates side by side in one program. About two minutes on two CPU cores.
#
# A rollback has to bring back more than the parameters: a running mean that has seen a NaN poisons
# every later evaluation. `salera_optax.flax` has a linen `TrainState` and an nnx `Optimizer` that
# take care of it.

# %%
import os
import tempfile
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits

import salera_optax
from salera_optax.flax import Optimizer, TrainState

jax.config.update("jax_num_cpu_devices", 8)  # before any other use of JAX
SHORT = "SALERA_SHORT" in os.environ  # the project's own checks run a short form
EPOCHS = 2 if SHORT else 20

COLOURS = {"salera": "#56B4E9", "sgd": "#E69F00", "adam": "#000000"}
plt.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "font.size": 10,
        "grid.color": "#E4E4E4",
        "legend.frameon": False,
    }
)

# %% [markdown]
# ## Digits, with one bad minibatch
#
# The digits of scikit-learn, 1,500 to train on and 297 to test, in minibatches of 48, which eight
# devices can share. Halfway through, one pixel is NaN, as happens.

# %%
images, labels = load_digits(return_X_y=True)
shuffled = np.random.default_rng(0).permutation(len(images))
images = jnp.asarray((images - images.mean()) / images.std(), jnp.float32)[shuffled]
labels = jnp.asarray(labels)[shuffled]
test_images, test_labels = images[1500:], labels[1500:]

BATCH, STEPS_PER_EPOCH = 48, 31
STEPS = EPOCHS * STEPS_PER_EPOCH


def minibatches(seed):
    """Images (steps, batch, 64) and labels (steps, batch), shuffled anew for every epoch."""
    keys = jax.random.split(jax.random.key(seed), EPOCHS)
    rows = jax.vmap(lambda key: jax.random.permutation(key, 1500)[: STEPS_PER_EPOCH * BATCH])(keys)
    rows = rows.reshape(STEPS, BATCH)
    return images[rows], labels[rows]


FAULT = STEPS // 2 - 1
clean = minibatches(seed=0)
data = clean[0].at[FAULT, 0, 0].set(jnp.nan), clean[1]

# %% [markdown]
# ## Linen
#
# Two words change in a linen training step: the import of `TrainState`, and `value=loss`.
#
# ```diff
# - from flax.training.train_state import TrainState
# + from salera_optax.flax import TrainState
#
# - return state.apply_gradients(grads=grads, batch_stats=batch_stats)
# + return state.apply_gradients(grads=grads, value=loss, batch_stats=batch_stats)
# ```


# %%
class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for width in (128, 64):
            x = nn.Dense(width)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(x)


net = Net()


@jax.jit
def init(seed):
    return net.init(jax.random.key(seed), test_images[:1], train=True)


def create(tx, variables):
    return TrainState.create(apply_fn=net.apply, tx=tx, **variables)


def train_step(state, batch):
    x, y = batch

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = state.apply_fn(variables, x, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, changed["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, value=loss, batch_stats=batch_stats)
    return state, {"loss": loss, **salera_optax.metrics(state.opt_state)}


@jax.jit
def test_error(state):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, test_images, train=False)
    return 100 * jnp.mean(logits.argmax(1) != test_labels)


@jax.jit
def train(state, data):
    """The state after all minibatches, and the loss and the metrics of every step."""
    return jax.lax.scan(train_step, state, data)


# %% [markdown]
# Any Optax optimizer fits into this `TrainState`. SGD does not survive the NaN; `salera` does.


# %%
def finite(tree):
    return jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), tree))


tx = salera_optax.salera(0.01)
runs = {
    "sgd": train(create(optax.sgd(0.1), init(0)), data),
    "salera": train(create(tx, init(0)), data),
}
for name, (state, _) in runs.items():
    print(
        f"{name:<7} {test_error(state):5.1f} % wrong; finite parameters: {finite(state.params)}, "
        f"finite batch statistics: {finite(state.batch_stats)}"
    )
held = np.flatnonzero(runs["salera"][1]["held"])
print(f"salera: the NaN at step {FAULT} was held: {FAULT in held}")

# %% [markdown]
# ## nnx
#
# The same model, the same data. Again two words change: the import of `Optimizer`, and
# `value=loss`.


# %%
class NnxNet(nnx.Module):
    def __init__(self, rngs):
        sizes = ((64, 128), (128, 64))
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in sizes])
        self.norms = nnx.List([nnx.BatchNorm(m, rngs=rngs) for _, m in sizes])
        self.last = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.last(x)


@nnx.jit
def nnx_train(model, optimizer, data):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def nnx_train_step(carry, batch):
        model, optimizer = carry
        x, y = batch

        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)
        return carry, loss

    return nnx_train_step((model, optimizer), data)[1]


model = NnxNet(nnx.Rngs(0))
optimizer = Optimizer(model, salera_optax.salera(0.01), wrt=nnx.Param)
nnx_train(model, optimizer, data)
model.eval()
error = 100 * jnp.mean(model(test_images).argmax(1) != test_labels)
holds = salera_optax.metrics(optimizer.opt_state)["holds"]
print(f"salera {error:.1f} % wrong; held: {holds}; finite: {finite(nnx.state(model))}")

# %% [markdown]
# ## Checkpoint and resume
#
# The optimizer's state is a pytree of arrays like any other: Orbax saves it as it is. Here a run is
# interrupted at the worst moment, just after the NaN, and resumed in a new state. It ends where
# the uninterrupted one ends, in every bit.


# %%
def fresh():
    return create(tx, init(0))


with tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(folder) as manager:
    state, _ = train(fresh(), jax.tree.map(lambda x: x[: FAULT + 1], data))
    manager.save(FAULT + 1, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()

    target = jax.eval_shape(fresh)
    state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(target))
    resumed, _ = train(state, jax.tree.map(lambda x: x[FAULT + 1 :], data))

# The guard's history has the NaN itself, which equals nothing.
same = jax.tree.map(
    lambda a, b: bool(jnp.array_equal(a, b, equal_nan=True)), runs["salera"][0], resumed
)
print(f"{len(jax.tree.leaves(same))} arrays of the state, all the same: {jax.tree.all(same)}")

# %% [markdown]
# ## A mesh of eight devices
#
# Under `jit` nothing changes. Put the minibatches on the mesh, split over its devices, and the
# parameters on all of them; loss, norms and alarms are those of the whole. These eight devices are
# virtual ones of one CPU; on accelerators the cell is the same.

# %%
mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices("cpu")[:8])
split = jax.device_put(data, NamedSharding(mesh, P(None, "data")))
copies = jax.device_put(fresh(), NamedSharding(mesh, P()))
whole, one = runs["salera"]
state, many = train(copies, split)

print(
    f"a minibatch of {BATCH} on {len(split[0].sharding.device_set)} devices, "
    f"{split[0].sharding.shard_shape(split[0].shape)[1]} images each"
)
print(f"{test_error(state):.1f} % wrong, on one device {test_error(whole):.1f} %")
print(f"alarms at the same steps: {bool((many['alarm'] == one['alarm']).all())}")
start = slice(0, 30)
gap = np.max(np.abs(many["loss"][start] - one["loss"][start]))
print(f"largest difference of the first 30 losses: {gap:.1e}")

# %% [markdown]
# The sums over eight devices round otherwise than those on one, and training lets a rounding error
# grow; so the losses agree in their first digits, and the runs in their outcome. Inside `shard_map`
# or `pmap`, say `salera(0.01, axis_name="data")`.
#
# ## Many runs at once: the robustness figure
#
# Every numeric argument of an optimizer may be a tracer, and so a whole training run can be
# `vmap`-ed over seeds and initial rates. Each optimizer below is one program. No faults in the data
# now.

# %%
RATES = np.logspace(-5, 2, 4 if SHORT else 15)
SEEDS = np.arange(2 if SHORT else 3)
OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam, "salera": salera_optax.salera}


def outcome(make, rate, variables, data):
    state, _ = jax.lax.scan(train_step, create(make(rate), variables), data)
    return test_error(state)


@partial(jax.jit, static_argnums=0)
def sweep(make, variables, data):
    over_seeds = jax.vmap(partial(outcome, make), (None, 0, 0))
    return jax.vmap(over_seeds, (0, None, None))(RATES, variables, data)


starts = jax.vmap(init)(SEEDS), jax.vmap(minibatches)(SEEDS)
errors = {name: np.asarray(sweep(make, *starts)) for name, make in OPTIMIZERS.items()}

# %%
fig, axis = plt.subplots(figsize=(9.5, 4.2))
axis.axhline(90, color="grey", ls=":", lw=1)
axis.annotate("guessing", (1e-5, 90), (0, 3), textcoords="offset points", color="grey")
for name, error in errors.items():
    axis.loglog(RATES, np.median(error, 1), color=COLOURS[name], lw=1.8, label=name)
    axis.loglog(RATES, error, "o", color=COLOURS[name], ms=3, alpha=0.6)
axis.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
axis.minorticks_off()
axis.set(xlabel="initial learning rate", ylabel="test error (%)")
axis.set_title(f"After {EPOCHS} epochs: {len(SEEDS)} seeds (points) and their median")
axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
plt.show()

# %%
print(f"{'optimizer':<12}{'best median':>12}   runs below 5 %")
for name, error in errors.items():
    best = np.median(error, 1).min()
    print(f"{name:<12}{best:10.1f} %{(error < 5).sum():8} of {error.size}")

# %% [markdown]
# `salera` has no window: whatever rate it is given, its first steps are small beside the weights.
# At its best rate each optimizer does about as well as the others: what `salera` saves is the
# search.
#
# The same figure for MNIST, with many more rivals, and how to repeat it:
# [results](../benchmarks/results/README.md).
