"""The optimizer for NNX: drop-in, and an exact rollback of parameters and batch statistics."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from flax_training import (
    GUARDED,
    INPUTS,
    alarms,
    assert_same_bits,
    contents,
    holds,
    nnx_pair,
    nnx_step,
)

import salera_optax
from salera_optax import flax as salera_flax


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize(("fault", "calls"), [(np.nan, 9), (1e8, 3)])
def test_nnx_alarm_brings_back_parameters_and_batch_statistics(tx, fault, calls):
    net, optimizer = nnx_pair(tx)
    history = [contents(net)]
    for inputs in INPUTS[:20]:
        nnx_step(net, optimizer, inputs)
        history.append(contents(net))
    for _ in range(calls - 1):
        nnx_step(net, optimizer, fault * INPUTS[20])
        assert_same_bits(contents(net), history[20])
    assert alarms(optimizer) == 0
    nnx_step(net, optimizer, fault * INPUTS[20])
    assert alarms(optimizer) == 1
    assert_same_bits(contents(net), history[19])
    nnx_step(net, optimizer, np.nan * INPUTS[20])  # is held there
    assert alarms(optimizer) == 1
    assert_same_bits(contents(net), history[19])
    nnx_step(net, optimizer, INPUTS[21])
    assert not np.array_equal(contents(net)["norm"]["mean"], history[19]["norm"]["mean"])
    assert not np.array_equal(contents(net)["last"]["kernel"], history[19]["last"]["kernel"])
    assert int(optimizer.step[...]) == 22 + calls


@pytest.mark.parametrize("fault", [np.nan, 1e8])
def test_nnx_bad_minibatch_changes_neither_parameters_nor_batch_statistics(fault):
    net, optimizer = nnx_pair(salera_optax.salera(0.1))
    for inputs in INPUTS[:20]:
        nnx_step(net, optimizer, inputs)
    before = contents(net)
    nnx_step(net, optimizer, fault * INPUTS[20])
    assert (alarms(optimizer), holds(optimizer)) == (0, 1)
    assert_same_bits(contents(net), before)
    nnx_step(net, optimizer, INPUTS[21])
    assert holds(optimizer) == 1
    assert not np.array_equal(contents(net)["norm"]["mean"], before["norm"]["mean"])
    assert not np.array_equal(contents(net)["last"]["kernel"], before["last"]["kernel"])


@pytest.mark.parametrize(("fault", "calls"), [(np.nan, 9), (1e8, 3)])
def test_nnx_without_rollback_a_held_call_changes_no_batch_statistics(fault, calls):
    net, optimizer = nnx_pair(salera_optax.page_hinkley(optax.sgd(0.1), rollback=False))
    for inputs in INPUTS[:5]:
        nnx_step(net, optimizer, inputs)
    before = contents(net)
    for _ in range(calls):
        nnx_step(net, optimizer, fault * INPUTS[5])
    assert (alarms(optimizer), holds(optimizer)) == (1, calls)
    assert_same_bits(contents(net), before)
    nnx_step(net, optimizer, INPUTS[6])
    assert holds(optimizer) == calls
    assert not np.array_equal(contents(net)["norm"]["mean"], before["norm"]["mean"])


@pytest.mark.parametrize(("fault", "calls"), [(np.nan, 9), (1e6, 3)])
def test_nnx_alarm_heals_broken_parameters(fault, calls):
    net, optimizer = nnx_pair(salera_optax.salera(0.1))
    history = [contents(net)]
    for inputs in INPUTS[:20]:
        nnx_step(net, optimizer, inputs)
        history.append(contents(net))
    net.last.kernel[...] = fault * net.last.kernel[...]
    broken = contents(net)
    for _ in range(calls - 1):
        nnx_step(net, optimizer, INPUTS[20])
        assert_same_bits(contents(net), broken)
    assert alarms(optimizer) == 0
    nnx_step(net, optimizer, INPUTS[20])
    assert alarms(optimizer) == 1
    assert_same_bits(contents(net), history[19])


def test_plain_nnx_optimizer_rolls_the_parameters_back_by_addition():
    net, optimizer = nnx_pair(salera_optax.salera(0.1), nnx.Optimizer)
    history = [contents(net)]
    for inputs in INPUTS[:20]:
        nnx_step(net, optimizer, inputs)
        history.append(contents(net))
    for _ in range(4):  # the third is the alarm, and may round; the fourth mends it
        nnx_step(net, optimizer, 1e6 * INPUTS[20])
    assert alarms(optimizer) == 1
    assert not np.array_equal(history[20]["last"]["kernel"], history[19]["last"]["kernel"])
    for layer in ("first", "last"):
        assert_same_bits(contents(net)[layer], history[19][layer])


@pytest.mark.parametrize("tx", [optax.adam(0.01), salera_optax.salera(0.1)])
def test_nnx_without_alarm_is_flax_s_own(tx):
    pairs = [nnx_pair(tx, cls) for cls in (salera_flax.Optimizer, nnx.Optimizer)]
    for inputs in INPUTS[:10]:
        for net, optimizer in pairs:
            nnx_step(net, optimizer, inputs)
    ours, theirs = (contents(net) for net, _ in pairs)  # two programs, which may round differently
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, theirs)


def test_nnx_takes_a_transformation_that_knows_no_value():
    net, optimizer = nnx_pair(optax.scale(-0.1))
    nnx_step(net, optimizer, INPUTS[0])
    assert int(optimizer.step[...]) == 1


def test_nnx_minibatch_that_is_skipped_leaves_no_nan_behind():
    net, optimizer = nnx_pair(optax.apply_if_finite(salera_optax.salera(0.1), 5))
    nnx_step(net, optimizer, INPUTS[0])
    before = contents(net)
    nnx_step(net, optimizer, np.nan * INPUTS[1])
    assert_same_bits(contents(net), before)


def test_nnx_metrics_are_arrays():
    for tx in (salera_optax.salera(0.1), salera_optax.spalera(0.1)):
        net, optimizer = nnx_pair(tx)
        nnx_step(net, optimizer, INPUTS[0])
        report = salera_optax.metrics(optimizer.opt_state)
        assert {"alarms", "learning_rate/first/kernel"} <= report.keys()
        assert all(isinstance(number, jax.Array) for number in report.values())
