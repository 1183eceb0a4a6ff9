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
# # Quick start: a learning rate that tunes itself
#
# To run it: `pip install -e '.[benchmarks]'` in a clone, and Jupyter.
#
# A few lines of an Optax training loop change, and the initial learning rate matters far less:
#
# ```diff
# - tx = optax.adamw(1e-3)
# + tx = salera_optax.salera_adamw()
#
#   loss, grads = jax.value_and_grad(loss_fn)(params, batch)
# - updates, opt_state = tx.update(grads, opt_state, params)
# - params = optax.apply_updates(params, updates)
# + params, opt_state = salera_optax.step(tx, grads, opt_state, params, value=loss)
# ```
#
# Here a small network learns real images, from initial rates between 0.000001 and 10, once with
# AdamW and once with `salera_adamw`. We watch the rates find their level, read the optimizer's
# `metrics`, and see where it does not work. It takes about a minute on two CPU cores.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import salera_optax

SHORT = "SALERA_SHORT" in os.environ  # the project's own checks run a short form
EPOCHS = 2 if SHORT else 20

BLUE, ORANGE, GREEN, ALARM = "#0072B2", "#E69F00", "#009E73", "#D55E00"
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
# ## Data, model, loss
#
# The handwritten digits that come inside scikit-learn: 1,500 images of 8 x 8 pixels to train on,
# 297 to test. A network with two hidden layers, in plain JAX.

# %%
images, labels = load_digits(return_X_y=True)
shuffled = np.random.default_rng(0).permutation(len(images))
images = jnp.asarray((images - images.mean()) / images.std(), jnp.float32)[shuffled]
labels = jnp.asarray(labels)[shuffled]
train_images, test_images = images[:1500], images[1500:]
train_labels, test_labels = labels[:1500], labels[1500:]


def init(key):
    glorot = jax.nn.initializers.glorot_uniform()
    shapes = {"layer 1": (64, 256), "layer 2": (256, 128), "layer 3": (128, 10)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: {"kernel": glorot(k, shape), "bias": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def logits(params, x):
    for name in ("layer 1", "layer 2"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["layer 3"]["kernel"] + params["layer 3"]["bias"]


def loss_fn(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def test_error(params):
    return 100 * jnp.mean(logits(params, test_images).argmax(1) != test_labels)


# %% [markdown]
# ## Train
#
# `salera_optax.step` takes any Optax optimizer, so one training function serves for both.
# Everything is pure: the run is a `lax.scan` over minibatches of 50, and below a `vmap` trains from
# all initial rates at once. `metrics` costs nothing to speak of inside `jit`: it returns scalars
# that are in the state already.

# %%
BATCH = 50
STEPS_PER_EPOCH = 1500 // BATCH


def train(tx, seed=0):
    """Returns the last optimizer state, and the loss and the metrics of every step."""
    init_key, data_key = jax.random.split(jax.random.key(seed))
    order = jax.vmap(lambda key: jax.random.permutation(key, 1500))(
        jax.random.split(data_key, EPOCHS)
    )

    def train_step(carry, rows):
        params, opt_state = carry
        x, y = train_images[rows], train_labels[rows]
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        params, opt_state = salera_optax.step(tx, grads, opt_state, params, value=loss)
        return (params, opt_state), {"loss": loss, **salera_optax.metrics(opt_state)}

    params = init(init_key)
    start = (params, tx.init(params))
    (params, opt_state), log = jax.lax.scan(train_step, start, order.reshape(-1, BATCH))
    return test_error(params), opt_state, log


adamw_error, _, _ = jax.jit(lambda: train(optax.adamw(1e-3)))()
error, _, _ = jax.jit(lambda: train(salera_optax.salera_adamw()))()
print(f"test images wrong: {adamw_error:.1f} % with adamw, {error:.1f} % with salera_adamw")

# %% [markdown]
# At a good rate there is little to choose between them. But who knows a good rate beforehand?
#
# ## From any initial rate

# %%
rates = jnp.array([1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0])
adamw_errors, _, _ = jax.jit(jax.vmap(lambda rate: train(optax.adamw(rate))))(rates)
errors, _, logs = jax.jit(jax.vmap(lambda rate: train(salera_optax.salera_adamw(rate))))(rates)
epochs = np.arange(1, len(logs["loss"][0]) + 1) / STEPS_PER_EPOCH

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
left.axhline(90, color="grey", ls=":", lw=1)
left.annotate("guessing", (1e-6, 90), (0, 3), textcoords="offset points", color="grey")
left.loglog(rates, adamw_errors, "o-", color=ORANGE, ms=4, label="optax.adamw")
left.loglog(rates, errors, "o-", color=BLUE, ms=4, label="salera_adamw")
left.set_yticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "90"])
left.set(xlabel="initial learning rate", ylabel="test error (%)", title="Where each run ends")
left.legend(loc="upper center", bbox_to_anchor=(0.45, 0.93))

right.semilogy(epochs, logs["learning_rate/layer 1/kernel"].T, color=BLUE, lw=1.3)
starts = logs["learning_rate/layer 1/kernel"][:, 0]
right.plot(np.zeros(len(rates)), starts, "o", color=BLUE, ms=4, clip_on=False)
right.axhspan(1e-3, 0.01, color=ORANGE, alpha=0.25, lw=0)
right.annotate("shaded: where AdamW does well", (EPOCHS, 0.3), ha="right", color="#8A5F00")
right.set(xlabel="epoch", xlim=(0, EPOCHS), title="The rate of layer 1, run by run")
right.set_xticks(range(0, EPOCHS + 1, 5))
for axis in (left, right):
    axis.minorticks_off()
plt.show()

# %% [markdown]
# AdamW has its window, and outside of it a run is slow or lost. Ours has none: whatever rate it is
# given, it starts with steps that are small beside the weights. From there the rate climbs, for
# successive gradients point the same way, until they no longer do. (One image of the test set is
# 0.34 %: among the good runs the differences are chance.)
#
# ## The rates, layer by layer
#
# Each leaf of the parameters has a rate of its own. Here are two of the runs above.

# %%
fig, axes = plt.subplots(2, 2, figsize=(9.5, 5), sharex=True, sharey="row")
colours = {"layer 1": BLUE, "layer 2": ORANGE, "layer 3": GREEN}
for column, start in zip(axes.T, (1e-6, 1e-2), strict=True):
    run = int(jnp.argmin(jnp.abs(jnp.log(rates / start))))
    log = jax.tree.map(lambda x, run=run: np.asarray(x[run]), logs)
    column[0].semilogy(epochs, log["loss"], color=BLUE, lw=0.8)
    for layer, colour in colours.items():
        for part, style in (("kernel", "-"), ("bias", "--")):
            curve = log[f"learning_rate/{layer}/{part}"]
            column[1].semilogy(epochs, curve, style, color=colour, lw=1.5, label=f"{layer}, {part}")
    alarms = int(log["alarms"][-1])
    column[0].set_title(f"started at {start:g}: {alarms or 'no'} alarms, {errors[run]:.1f} % wrong")
    column[1].set(xlabel="epoch", xlim=(0, EPOCHS), xticks=range(0, EPOCHS + 1, 5))
    for axis in column:
        axis.minorticks_off()
        for alarm in epochs[log["alarm"]]:
            axis.axvline(alarm, color=ALARM, lw=0.9)
axes[0, 0].set_ylabel("minibatch loss")
axes[1, 0].set_ylabel("learning rate")
axes[1, 1].plot([], [], color=ALARM, lw=0.9, label="alarm")
axes[1, 1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
plt.show()

# %% [markdown]
# ## Reading `metrics`
#
# `salera_optax.metrics(opt_state)` is a flat dictionary of scalars, inside `jit` or outside, ready
# for any logger. Here the guard stands around plain Adam, at a rate of 1. The loss explodes at
# once, and each alarm takes the parameters back and halves the steps:

# %%
guarded = salera_optax.page_hinkley(optax.adam(1.0))
error, opt_state, _ = jax.jit(lambda: train(guarded))()
unguarded_error, _, _ = jax.jit(lambda: train(optax.adam(1.0)))()
print(f"test images wrong: {error:.1f} %, without the guard {unguarded_error:.1f} %")
for key, value in salera_optax.metrics(opt_state).items():
    print(f"{key:<30}{value:>10.4g}")

# %% [markdown]
# | key | what it tells you |
# |---|---|
# | `alarm`, `alarms` | whether the last call was an alarm, and how many there were |
# | `cause` | of the last alarm: 1 gradients in doubt, 2 a rise of the loss, 3 not finite |
# | `held`, `holds` | calls that took no step, for their minibatch was in doubt: in a row, and all |
# | `nonfinite` | how many met a NaN or an infinity: look at the data, not at the rate |
# | `statistic`, `threshold` | how near the loss is to the next alarm |
# | `scale` | what alarms have left of the steps, 1 at the start |
# | `learning_rate/...` | of ALERA: the rate in force for each leaf, all of the above included |
#
# Many alarms all through the run, or rates that run away: a smaller gain, `law=`. The
# [README](../README.md) has the whole list. What happened last, in words, is in
# `salera_optax.events`:

# %%
for event in salera_optax.events(opt_state)[-3:]:
    print({key: value for key, value in event.items() if key != "gradient_norm"})

# %% [markdown]
# ## What it does not do
#
# - **It may lose to a tuned rate and schedule.** What it saves is the search: compare each below.
# - **It is no law.** A guarded optimizer of your own that starts far too high can end at chance:
#   while the alarms bring the rate down, many ReLUs fall silent, and no smaller rate wakes them.
# - **It needs a loss that can be compared** from step to step. A GAN's cannot.

# %%
for name, tried in (("adamw", adamw_errors), ("salera_adamw", errors)):
    within = rates[tried <= 6]
    print(
        f"{name + ':':<14} best {tried.min():.1f} % wrong; at most 6 % from "
        f"{len(within)} of {len(rates)} initial rates"
    )

# %% [markdown]
# **Next:** [what happens in an alarm](2_anatomy_of_a_catastrophe.ipynb), and [a Flax model end to
# end](3_flax_end_to_end.ipynb), with batch statistics, checkpoints and a mesh.
