"""What the data do costs a guarded run nothing for good: beside its twin without the guard.

Each run is compared with the same optimizer under `optax.apply_if_finite`, on the same minibatches.
ALERA without a guard explodes here: SALERA is also compared with SGD's twin, and its steps, which
it sets itself, with those of its own run without trouble.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from sklearn.datasets import load_digits

import salera_optax

STEPS, BATCH = 3200, 64
BAD = 1000  # where 200 bad minibatches begin
NAN, INF = float("nan"), float("inf")


class Trouble(NamedTuple):
    """What is done to one minibatch, scalars.

    Attributes:
      loss: the loss, and so its gradient, is multiplied by it.
      offset: is added to the loss, without a gradient.
      gradient: the gradient alone is multiplied by it.
      images: the images are multiplied by it.
      noise: deviation of noise on the images.
      penalty: of the squares of the weights, a term of the loss.
      labels: how many places the labels are shifted in their cycle of ten.
      shuffled: whether the labels are random.
      rows: how many of the images there are.
    """

    loss: float = 1.0
    offset: float = 0.0
    gradient: float = 1.0
    images: float = 1.0
    noise: float = 0.0
    penalty: float = 0.0
    labels: int = 0
    shuffled: bool = False
    rows: int = BATCH


def some(condition, **what):
    """These numbers where the condition holds, the usual ones elsewhere."""
    usual = Trouble._field_defaults
    return Trouble()._replace(**{k: jnp.where(condition, v, usual[k]) for k, v in what.items()})


def at_random(share, **what):
    return lambda step, draw: some(draw < share, **what)


def two_hundred(**what):
    return lambda step, draw: some((step >= BAD) & (step < BAD + 200), **what)


def wave(step, period):
    return (1 + jnp.sin(2 * jnp.pi * step / period)) / 2


TROUBLES = {
    "none": lambda *_: Trouble(),
    "NaN at 2 %": at_random(0.02, loss=NAN),
    "NaN at 10 %": at_random(0.1, loss=NAN),
    "NaN at 30 %": at_random(0.3, loss=NAN),
    "every second of the first 200": lambda step, _: some((step < 200) & (step % 2 == 0), loss=NAN),
    "one of 200 weighs 30 times as much": at_random(1 / 200, loss=30.0),
    "noise of period 100": lambda step, _: Trouble(noise=wave(step, 100)),
    "loss of period 1000": lambda step, _: Trouble(offset=0.5 * wave(step, 1000)),
    "annealed penalty": lambda step, _: Trouble(penalty=1e-2 * jnp.minimum(step / 3000, 1)),
    "labels permuted": lambda step, _: some(step >= 2000, labels=1),
    "200 NaN": two_hundred(loss=NAN),
    "200 infinite gradients": two_hundred(gradient=INF),
    "200 gradients x 1e6": two_hundred(gradient=1e6),
    "200 x corrupt images": two_hundred(images=1e3),
    "200 x random labels": two_hundred(shuffled=True),
    "minibatches of 1": lambda *_: Trouble(rows=1),
    "minibatches of 2": lambda *_: Trouble(rows=2),
    "minibatches of 4": lambda *_: Trouble(rows=4),
    "zero for 1000 steps": lambda step, _: some(step < 1000, loss=0.0),
    "loss x 5": lambda step, _: some(step >= 2000, loss=5.0),
    "gradient grows 20-fold": lambda step, _: Trouble(gradient=1 + 19 * wave(step, STEPS)),
    "warm restarts": lambda *_: Trouble(),  # of the learning rate
}
RESTARTS = list(TROUBLES).index("warm restarts")
OPTIMIZERS = {
    "sgd": (optax.sgd, 0.05),
    "adam": (optax.adam, 1e-3),
    "salera": (salera_optax.alera, 0.01),
}


def logits(params, images):
    hidden = jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def initial_params():
    glorot = jax.nn.initializers.glorot_normal()
    first, second = jax.random.split(jax.random.key(0))
    return {
        "hidden": {"kernel": glorot(first, (64, 32)), "bias": jnp.zeros(32)},
        "output": {"kernel": glorot(second, (32, 10)), "bias": jnp.zeros(10)},
    }


def mean_loss(params, images, labels, there):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels)
    return jnp.sum(losses * there) / jnp.sum(there)


def optimizer(name, guarded, index):
    """Under the guard, or as its twin."""
    make, rate = OPTIMIZERS[name]

    def schedule(step):
        cosine = (1 + jnp.cos(jnp.pi * (step % 400) / 400)) / 2
        return rate * jnp.where(index == RESTARTS, cosine, 1)

    if guarded and name == "salera":
        return salera_optax.salera(schedule)
    if guarded:
        return salera_optax.page_hinkley(make(schedule))
    return optax.apply_if_finite(make(schedule), max_consecutive_errors=STEPS)


def now(index, step, draw):
    """The trouble of this number, as arrays of one type each whatever it is."""
    kinds = [jnp.result_type(type(usual)) for usual in Trouble()]

    def typed(trouble):
        return lambda: Trouble(*map(jnp.asarray, trouble(step, draw), kinds))

    return jax.lax.switch(index, [typed(trouble) for trouble in TROUBLES.values()])


@functools.cache
def outcomes(name, guarded):
    """Loss on all images at the end, and what is left of the steps, for every trouble.

    The steps of SALERA are its rates, of which this is the geometric mean, times the scale.
    """
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)

    def run(index):
        tx = optimizer(name, guarded, index)

        def one_step(carry, given):
            params, state = carry
            step, key = given
            rows, drawn, noise, shuffle = jax.random.split(key, 4)
            trouble = now(index, step, jax.random.uniform(drawn))
            chosen = jax.random.randint(rows, (BATCH,), 0, len(images))
            seen = images[chosen] * trouble.images
            seen += trouble.noise * jax.random.normal(noise, seen.shape)
            wanted = (labels[chosen] + trouble.labels) % 10
            wanted = jnp.where(
                trouble.shuffled, jax.random.randint(shuffle, (BATCH,), 0, 10), wanted
            )
            there = jnp.arange(BATCH) < trouble.rows

            def loss_fn(params):
                penalty = trouble.penalty * optax.tree.norm(params, squared=True)
                return trouble.loss * mean_loss(params, seen, wanted, there) + penalty

            loss, grads = jax.value_and_grad(loss_fn)(params)
            grads = jax.tree.map(lambda g: trouble.gradient * g, grads)
            value = {"value": loss + trouble.offset} if guarded else {}
            updates, state = tx.update(grads, state, params, **value)
            return (optax.apply_updates(params, updates), state), None

        params = initial_params()
        steps = jnp.arange(STEPS), jax.random.split(jax.random.key(1), STEPS)
        (params, state), _ = jax.lax.scan(one_step, (params, tx.init(params)), steps)
        shift = now(index, STEPS, 1.0).labels
        loss = mean_loss(params, images, (labels + shift) % 10, jnp.ones(len(images)))
        rates = jax.tree.leaves(optax.tree.get(state, "log_rate", 0.0))
        scale = optax.tree.get(state, "scale", 1.0)
        return loss, scale * jnp.exp(jnp.mean(jnp.stack(rates)))

    together = jax.jit(jax.vmap(run), compiler_options={"xla_backend_optimization_level": 1})
    return jax.device_get(together(jnp.arange(len(TROUBLES))))


# What is not reached yet: in small minibatches the rates of plain SALERA come down too early, and
# behind a change of the loss they are lower than need be.
KNOWN = {"salera": {"minibatches of 4", "loss x 5"}}
CASES = [
    pytest.param(
        name,
        trouble,
        id=f"{name}-{trouble}",
        marks=[pytest.mark.xfail] * (trouble in KNOWN.get(name, ())),
    )
    for name in OPTIMIZERS
    for trouble in TROUBLES
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trouble"), CASES)
def test_a_guarded_run_ends_where_its_twin_does_and_keeps_its_steps(name, trouble):
    index = list(TROUBLES).index(trouble)
    losses, steps = outcomes(name, True)
    twins = [
        outcomes(twin, False)[0][index] for twin in {name, "sgd" if name == "salera" else name}
    ]
    assert losses[index] <= 2 * min(twins) + 0.01
    if trouble != "NaN at 30 %":
        assert steps[index] >= steps[0] / 2
