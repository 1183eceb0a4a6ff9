"""What the data do to a guarded run, beside its twin without the guard, on the same minibatches.

The twin is the same optimizer under `optax.apply_if_finite`. A network of one hidden layer learns
the digits of scikit-learn.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import salera_optax
from benchmarks.data import load
from benchmarks.models import MLP

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

    loss: Any = 1.0
    offset: Any = 0.0
    gradient: Any = 1.0
    images: Any = 1.0
    noise: Any = 0.0
    penalty: Any = 0.0
    labels: Any = 0
    shuffled: Any = False
    rows: Any = BATCH


def _some(condition: jax.Array, **what: Any) -> Trouble:
    """These numbers where the condition holds, the usual ones elsewhere."""
    usual = Trouble._field_defaults
    return Trouble()._replace(**{k: jnp.where(condition, v, usual[k]) for k, v in what.items()})


def _at_random(share: float, **what: Any) -> Callable[[jax.Array, jax.Array], Trouble]:
    return lambda step, draw: _some(draw < share, **what)


def _two_hundred(**what: Any) -> Callable[[jax.Array, jax.Array], Trouble]:
    return lambda step, draw: _some((step >= BAD) & (step < BAD + 200), **what)


def _wave(step: jax.Array, period: int) -> jax.Array:
    return (1 + jnp.sin(2 * jnp.pi * step / period)) / 2


TROUBLES: dict[str, Callable[[jax.Array, jax.Array], Trouble]] = {
    "none": lambda *_: Trouble(),
    "NaN at 2 %": _at_random(0.02, loss=NAN),
    "NaN at 10 %": _at_random(0.1, loss=NAN),
    "NaN at 30 %": _at_random(0.3, loss=NAN),
    "NaN at every second of the first 200": lambda step, _: _some(
        (step < 200) & (step % 2 == 0), loss=NAN
    ),
    "one of 200 weighs 30 times as much": _at_random(1 / 200, loss=30.0),
    "noise of period 100": lambda step, _: Trouble(noise=_wave(step, 100)),
    "loss of period 1000": lambda step, _: Trouble(offset=0.5 * _wave(step, 1000)),
    "annealed penalty": lambda step, _: Trouble(penalty=1e-2 * jnp.minimum(step / 3000, 1)),
    "labels permuted": lambda step, _: _some(step >= 2000, labels=1),
    "200 NaN": _two_hundred(loss=NAN),
    "200 infinite gradients": _two_hundred(gradient=INF),
    "200 gradients x 1e6": _two_hundred(gradient=1e6),
    "200 x corrupt images": _two_hundred(images=1e3),
    "200 x random labels": _two_hundred(shuffled=True),
    "minibatches of 1": lambda *_: Trouble(rows=1),
    "minibatches of 2": lambda *_: Trouble(rows=2),
    "minibatches of 4": lambda *_: Trouble(rows=4),
    "zero for 1000 steps": lambda step, _: _some(step < 1000, loss=0.0),
    "loss x 5": lambda step, _: _some(step >= 2000, loss=5.0),
    "gradient grows 20-fold": lambda step, _: Trouble(gradient=1 + 19 * _wave(step, STEPS)),
    "warm restarts": lambda *_: Trouble(),  # of the learning rate
}
"""By name: what is done in a step, by its number and one drawn between 0 and 1."""
_RESTARTS = list(TROUBLES).index("warm restarts")


class Pair(NamedTuple):
    """An optimizer with the guard, and what its twin has under `apply_if_finite`.

    Attributes:
      guarded: makes it of a schedule.
      bare: makes that of the twin.
      learning_rate: of both.
    """

    guarded: Callable[[Any], optax.GradientTransformation]
    bare: Callable[[Any], optax.GradientTransformation]
    learning_rate: float


def _around(bare: Callable[[Any], optax.GradientTransformation], rate: float) -> Pair:
    return Pair(lambda schedule: salera_optax.page_hinkley(bare(schedule)), bare, rate)


PAIRS = {
    "sgd": _around(optax.sgd, 0.05),
    "momentum": _around(lambda schedule: optax.sgd(schedule, momentum=0.9), 0.005),
    "adam": _around(optax.adam, 1e-3),
    "salera": Pair(salera_optax.salera, salera_optax.alera, 0.01),
    "salera_adamw": Pair(salera_optax.salera_adamw, salera_optax.ag_adam, 1e-4),
}
"""By name."""


class Outcomes(NamedTuple):
    """How the runs of one optimizer ended, arrays with an entry for every trouble.

    Attributes:
      loss: on all images.
      scale: what the guard has left of the steps.
    """

    loss: Any
    scale: Any


_MODEL = MLP((32,))


def _mean_loss(params: Any, images: Any, labels: Any, there: Any) -> jax.Array:
    """Over those of the images that are there."""
    logits = jnp.asarray(_MODEL.apply({"params": params}, images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.asarray(jnp.sum(losses * there) / jnp.sum(there))


@functools.cache
def outcomes(name: str, guarded: bool) -> Outcomes:
    """Runs of one of `PAIRS`, through all troubles."""
    train, test = load("digits")
    images, labels = (jnp.concatenate(parts) for parts in zip(train, test, strict=True))
    pair = PAIRS[name]

    def run(index: jax.Array) -> Outcomes:
        def schedule(step: jax.Array) -> jax.Array:
            cosine = (1 + jnp.cos(jnp.pi * (step % 400) / 400)) / 2
            return pair.learning_rate * jnp.where(index == _RESTARTS, cosine, 1)

        bare = optax.apply_if_finite(pair.bare(schedule), max_consecutive_errors=STEPS)
        tx = pair.guarded(schedule) if guarded else bare

        def one_step(carry: Any, given: Any) -> tuple[Any, None]:
            params, state = carry
            step, key = given
            rows, drawn, noise, shuffle = jax.random.split(key, 4)
            trouble = _now(index, step, jax.random.uniform(drawn))
            chosen = jax.random.randint(rows, (BATCH,), 0, len(images))
            seen = _seen(trouble, images[chosen], noise)
            wanted = _wanted(trouble, labels[chosen], shuffle)
            there = jnp.arange(BATCH) < trouble.rows

            def loss_fn(params: Any) -> Any:
                penalty = trouble.penalty * optax.tree.norm(params, squared=True)
                return trouble.loss * _mean_loss(params, seen, wanted, there) + penalty

            loss, grads = jax.value_and_grad(loss_fn)(params)
            grads = jax.tree.map(lambda g: trouble.gradient * g, grads)
            value = loss + trouble.offset
            return salera_optax.step(tx, grads, state, params, value=value), None

        params = _MODEL.init(jax.random.key(0), images[:1])["params"]
        steps = jnp.arange(STEPS), jax.random.split(jax.random.key(1), STEPS)
        (params, state), _ = jax.lax.scan(one_step, (params, tx.init(params)), steps)
        shift = _now(index, jnp.asarray(STEPS), jnp.ones(())).labels
        loss = _mean_loss(params, images, (labels + shift) % 10, jnp.ones(len(images)))
        return Outcomes(loss, salera_optax.metrics(state).get("scale", jnp.ones(())))

    together = jax.jit(jax.vmap(run), compiler_options={"xla_backend_optimization_level": 1})
    return Outcomes(*jax.device_get(together(jnp.arange(len(TROUBLES)))))


def _seen(trouble: Trouble, images: jax.Array, key: jax.Array) -> jax.Array:
    """The images of a minibatch as the trouble has them."""
    seen = images * trouble.images
    return jnp.asarray(seen + trouble.noise * jax.random.normal(key, seen.shape))


def _wanted(trouble: Trouble, labels: jax.Array, key: jax.Array) -> jax.Array:
    """The labels of a minibatch as the trouble has them."""
    shifted = (labels + trouble.labels) % 10
    return jnp.where(trouble.shuffled, jax.random.randint(key, (BATCH,), 0, 10), shifted)


def _now(index: jax.Array, step: jax.Array, draw: jax.Array) -> Trouble:
    """The trouble of this number, as arrays of one type each whatever it is."""
    kinds = [jnp.result_type(type(usual)) for usual in Trouble()]

    def typed(trouble: Callable[[Any, Any], Trouble]) -> Callable[[], Trouble]:
        return lambda: Trouble(*map(jnp.asarray, trouble(step, draw), kinds))

    return Trouble(*jax.lax.switch(index, [typed(trouble) for trouble in TROUBLES.values()]))
