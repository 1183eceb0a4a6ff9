"""Long runs: neither many bad minibatches nor a hopeless rate ends one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from guarded_runs import GRADS, NAN, PARAMS

import salera_optax
from benchmarks.tasks import measure
from benchmarks.tasks.contenders import Contender
from benchmarks.tasks.suite import TASKS


def scanned(tx, values):
    """The state after steps at these losses, in one program."""

    def body(carry, value):
        params, state = carry
        return salera_optax.step(tx, GRADS, state, params, value=value), None

    return jax.jit(lambda: jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), jnp.array(values))[0][1])()


def test_a_thousand_bad_minibatches_in_a_row_shrink_nothing():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    state = scanned(tx, [1.0] * 10 + [NAN] * 1000 + [1.0] * 10)
    assert state.scale == 1
    assert state.nonfinite == 1000
    assert state.alarms == 2, "to the snapshot, and the data are to blame"
    assert not state.action.hold


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_bad_minibatches_at_random_never_shrink_the_steps(share):
    bad = np.random.default_rng(0).random(5000) < share
    for value in (NAN, 1e6):
        tx = salera_optax.page_hinkley(optax.sgd(1e-3))
        state = scanned(tx, np.where(bad, value, 1.0))
        # A run of three, by chance, before it is known how common they are, may cost two halvings.
        assert state.scale >= (1 if share < 0.3 or np.isnan(value) else 0.25)
        if np.isnan(value):
            assert state.holds == state.nonfinite == bad.sum()


def test_every_second_minibatch_bad_and_then_all_good_is_as_if_nothing_had_been():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    state = scanned(tx, [1.0, NAN] * 100 + [1.0] * 100)
    assert (state.scale, state.alarms, state.holds) == (1, 0, 100)


@pytest.mark.parametrize("learning_rate", [1e2, 1e6, 1e9])
def test_a_rate_that_overflows_the_loss_at_every_step_gets_through_in_the_end(learning_rate):
    def loss_fn(x):
        return jnp.sum(x**8)  # the loss and the gradient overflow after one step

    for tx in (
        salera_optax.salera(learning_rate),
        salera_optax.page_hinkley(optax.sgd(learning_rate)),
    ):

        def body(carry, _, tx=tx):
            x, state = carry
            loss, grads = jax.value_and_grad(loss_fn)(x)
            return salera_optax.step(tx, grads, state, x, value=loss), None

        x = jnp.array([1.0, -2.0])
        (x, _), _ = jax.lax.scan(body, (x, tx.init(x)), length=3000)
        assert loss_fn(x) < 1e-3 * loss_fn(jnp.array([1.0, -2.0]))


def unlimited(rate, _):
    """`salera` with heavy-ball momentum, without its limits beside the parameters."""
    rates = salera_optax.scale_by_alera(base=optax.trace(0.9), clip=4.0)
    return salera_optax.page_hinkley(optax.chain(rates, optax.scale_by_learning_rate(rate)))


@pytest.mark.slow
def test_a_rise_that_hides_in_its_own_noise_is_taken_back():
    # At the edge of stability the loss is quiet now and then while it rises, at parameters that are
    # worse and worse. A snapshot of those would be nothing to go back to.
    task = TASKS["factorization"]
    heavy = Contender(unlimited, 1e-3)
    run = jax.jit(measure.program(task, heavy, task.steps))
    for seed in (10, 12):
        outcome = run(np.float32([1e-3, 0.1]), np.uint32(seed), *task.data())
        assert (outcome.alarms > 0).any()
        assert (outcome.value < 0.2).all(), "of the variance, 1"
