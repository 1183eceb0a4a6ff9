"""The train states for Flax: drop-in, and an exact rollback of parameters and collections."""

import functools
import importlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, nnx
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

import salera_optax
from salera_optax import flax as salera_flax

INPUTS = jax.random.normal(jax.random.key(0), (40, 16, 3))
GUARDED = [
    pytest.param(salera_optax.salera(0.1), id="salera"),
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


def test_without_flax_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.delitem(sys.modules, "salera_optax.flax")
    with pytest.raises(ImportError, match=r"needs Flax.*pip install 'salera_optax\[flax\]'"):
        importlib.import_module("salera_optax.flax")


def assert_same_bits(actual, expected):
    def check(a, e):
        assert a.dtype == e.dtype
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()

    jax.tree.map(check, actual, expected)


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


@jax.jit
def linen_step_with_faulty_weights(state, inputs, factor):
    """A step after the parameters have been multiplied by `factor`."""
    params = jax.tree.map(lambda p: p * factor, state.params)
    return linen_step(state.replace(params=params), inputs)


def alarms(state):
    return int(salera_optax.metrics(state.opt_state)["alarms"])


def holds(state):
    return int(salera_optax.metrics(state.opt_state)["holds"])


def train(state, inputs):
    for batch in inputs:
        state = linen_step(state, batch)
    return state


# What multiplies the inputs, and how many such minibatches in a row are an alarm.
FAULTS = [(np.nan, 9), (np.inf, 9), (1e6, 3)]


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e6])
def test_linen_bad_minibatch_changes_neither_parameters_nor_batch_statistics(tx, fault):
    before = train(linen_state(tx), INPUTS[:20])
    assert (alarms(before), holds(before)) == (0, 0)
    held = linen_step(before, fault * INPUTS[20])
    assert (alarms(held), holds(held)) == (0, 1)
    assert_same_bits((held.params, held.batch_stats), (before.params, before.batch_stats))
    assert_same_bits(held.snapshot, before.snapshot)
    assert int(held.step) == 21
    after = linen_step(held, INPUTS[21])
    expected = linen_step(before, INPUTS[21])
    assert_same_bits((after.params, after.batch_stats), (expected.params, expected.batch_stats))


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_linen_alarm_brings_back_parameters_and_batch_statistics(tx, fault, calls):
    before = train(linen_state(tx), INPUTS[:19])
    good = linen_step(before, INPUTS[19])
    held = train(good, [fault * INPUTS[20]] * (calls - 1))
    assert alarms(held) == 0
    assert_same_bits((held.params, held.batch_stats), (good.params, good.batch_stats))
    back = linen_step(held, fault * INPUTS[20])
    assert alarms(back) == 1
    assert_same_bits((back.params, back.batch_stats), (before.params, before.batch_stats))
    assert int(back.step) == 20 + calls
    again = linen_step(back, fault * INPUTS[20])  # is held there
    assert alarms(again) == 1
    assert_same_bits((again.params, again.batch_stats), (before.params, before.batch_stats))
    after = linen_step(back, INPUTS[21])
    assert alarms(after) == 1
    assert not np.array_equal(after.params["Dense_0"]["kernel"], before.params["Dense_0"]["kernel"])


@pytest.mark.parametrize("tx", GUARDED)
@pytest.mark.parametrize(("factor", "calls"), [(np.nan, 9), (1e6, 3)])
def test_linen_alarm_heals_broken_parameters(tx, factor, calls):
    before = train(linen_state(tx), INPUTS[:19])
    good = linen_step(before, INPUTS[19])
    broken = linen_step_with_faulty_weights(good, INPUTS[20], factor)
    assert_same_bits(broken.params, jax.tree.map(lambda p: p * factor, good.params))
    held = train(broken, [INPUTS[20]] * (calls - 2))
    assert alarms(held) == 0
    assert_same_bits((held.params, held.batch_stats), (broken.params, good.batch_stats))
    back = linen_step(held, INPUTS[20])
    assert alarms(back) == 1
    assert_same_bits((back.params, back.batch_stats), (before.params, before.batch_stats))


@pytest.mark.parametrize("tx", [optax.adam(0.01), optax.sgd(0.1, momentum=0.9)])
def test_linen_without_a_guard_is_flax_s_own(tx):
    class FlaxState(train_state.TrainState):
        batch_stats: dict

    ours, flax_s = linen_state(tx), linen_state(tx, FlaxState)
    assert ours.snapshot is None
    for inputs in INPUTS[:5]:
        _, batch_stats, grads = loss_and_gradient(ours, inputs)
        ours = ours.apply_gradients(grads=grads, batch_stats=batch_stats)
        flax_s = flax_s.apply_gradients(grads=grads, batch_stats=batch_stats)
    assert_same_bits(
        (ours.params, ours.batch_stats, ours.opt_state),
        (flax_s.params, flax_s.batch_stats, flax_s.opt_state),
    )
    assert ours.step == flax_s.step == 5


def test_linen_without_alarm_is_a_plain_guarded_run():
    @jax.jit
    def plain_step(state, inputs):
        loss, batch_stats, grads = loss_and_gradient(state, inputs)
        params, opt_state = salera_optax.step(
            state.tx, grads, state.opt_state, state.params, value=loss
        )
        return state.replace(params=params, opt_state=opt_state, batch_stats=batch_stats)

    state = plain = linen_state(salera_optax.salera(0.1))
    for inputs in INPUTS[:10]:
        state, plain = linen_step(state, inputs), plain_step(plain, inputs)
    jax.tree.map(  # two programs, which may round differently
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        (state.params, state.batch_stats),
        (plain.params, plain.batch_stats),
    )


def test_linen_gives_the_loss_to_an_optimizer_that_takes_it():
    def update(updates, state, params=None, *, value, **extra):
        del state, params, extra
        return jax.tree.map(lambda u: -0.1 * value * u, updates), value

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    state = linen_step(linen_state(tx), INPUTS[0])
    assert float(state.opt_state) > 0


def test_linen_subclass_may_redeclare_the_batch_statistics():
    class State(salera_flax.TrainState):
        batch_stats: dict
        scale: jax.Array  # without a default, as in Flax's ImageNet example

    state = linen_state(salera_optax.salera(0.1), State, scale=jnp.ones(()))
    assert linen_step(state, INPUTS[0]).batch_stats["BatchNorm_0"]["mean"].shape == (8,)


def test_linen_what_was_loaded_after_create_is_kept_and_comes_back():
    state = linen_state(salera_optax.page_hinkley(optax.adam(0.01)))
    loaded = jax.tree.map(lambda x: x + 7, (state.params, state.batch_stats))
    state = state.replace(params=loaded[0], batch_stats=loaded[1])
    for _ in range(9):
        state = linen_step(state, np.nan * INPUTS[0])
        assert_same_bits((state.params, state.batch_stats), loaded)
    assert (alarms(state), holds(state)) == (0, 9)
    after = linen_step(state, INPUTS[1])
    assert not np.array_equal(after.params["Dense_1"]["bias"], loaded[0]["Dense_1"]["bias"])
    after = train(after, [np.nan * INPUTS[2]] * 9)
    assert alarms(after) == 1
    assert_same_bits((after.params, after.batch_stats), loaded)


@pytest.mark.parametrize(
    "tx",
    [
        optax.apply_if_finite(salera_optax.salera(0.1), 5),
        salera_optax.MultiSteps(
            salera_optax.salera(0.1), 2, should_skip_update_fn=optax.skip_not_finite
        ),
    ],
    ids=["apply_if_finite", "MultiSteps"],
)
def test_linen_minibatch_that_is_skipped_leaves_no_nan_behind(tx):
    before = train(linen_state(tx), INPUTS[:4])
    after = linen_step(before, np.nan * INPUTS[4])
    assert alarms(after) == 0
    assert_same_bits(after.batch_stats, before.batch_stats)


def test_linen_takes_frozen_and_thawed_collections():
    state = linen_state(salera_optax.salera(0.1))
    frozen = salera_flax.TrainState.create(
        apply_fn=state.apply_fn,
        params=state.params,
        tx=state.tx,
        batch_stats=core.freeze(state.batch_stats),
    )
    after = linen_step(frozen, INPUTS[0])
    assert isinstance(after.batch_stats, core.FrozenDict)
    assert_same_bits(after.batch_stats.unfreeze(), linen_step(state, INPUTS[0]).batch_stats)


def test_linen_takes_frozen_statistics_loaded_after_create():
    params, stats = {"w": jnp.ones(3)}, {"norm": {"mean": jnp.ones(2)}}
    state = salera_flax.TrainState.create(
        apply_fn=None, params=params, batch_stats=stats, tx=salera_optax.salera(0.1)
    )
    state = state.replace(batch_stats=core.freeze(stats))
    new = jax.tree.map(lambda x: x + 1, stats)
    state = state.apply_gradients(grads=params, value=1.0, batch_stats=new)
    assert_same_bits(state.batch_stats, new)
    moved = state.params
    for _ in range(8):
        state = state.apply_gradients(grads=params, value=jnp.nan, batch_stats=stats)
        assert_same_bits((state.params, state.batch_stats), (moved, new))
    state = state.apply_gradients(grads=params, value=jnp.nan, batch_stats=new)
    assert alarms(state) == 1
    assert_same_bits((state.params, state.batch_stats), (params, stats))


def test_linen_takes_empty_collections_of_a_model_without_any():
    state = salera_flax.TrainState.create(
        apply_fn=None, params={"w": jnp.ones(3)}, tx=salera_optax.salera(0.1)
    )
    for _ in range(2):
        state = state.apply_gradients(grads=state.params, value=1.0, batch_stats={})
    assert state.batch_stats == {}


def test_linen_fields_that_are_not_given_may_change_their_shape():
    state = linen_state(
        salera_optax.salera(0.1), WithKey, spectra={"u": jnp.ones(3)}, key=jax.random.key(0)
    )
    state = linen_step(state.replace(spectra={"u": jnp.ones(4), "v": jnp.ones(2)}), INPUTS[0])
    state = linen_step(state.replace(spectra=None), INPUTS[1])
    back = train(state, [np.nan * INPUTS[2]] * 9)
    assert alarms(back) == 1
    assert back.spectra is None
    assert not np.array_equal(back.params["Dense_1"]["bias"], state.params["Dense_1"]["bias"])


class WithKey(salera_flax.TrainState):
    """A subclass written as for Flax, its fields without defaults."""

    spectra: dict
    key: jax.Array


def test_linen_only_what_apply_gradients_is_given_comes_back():
    state = linen_state(
        salera_optax.salera(0.1), WithKey, spectra={"u": jnp.ones(3)}, key=jax.random.key(0)
    )

    @jax.jit
    def step(state, inputs):
        loss, batch_stats, grads = loss_and_gradient(state, inputs)
        spectra = jax.tree.map(lambda u: u + loss, state.spectra)
        state = state.replace(key=jax.random.split(state.key)[0])
        return state.apply_gradients(
            grads=grads, value=loss, batch_stats=batch_stats, spectra=spectra
        )

    states = [state]
    for inputs in [*INPUTS[:5], *[np.nan * INPUTS[5]] * 9]:
        states.append(step(states[-1], inputs))
    assert alarms(states[-1]) == 1
    assert_same_bits(states[-2].spectra, states[5].spectra)
    assert_same_bits(states[-1].spectra, states[4].spectra)
    assert not np.array_equal(states[5].spectra["u"], states[4].spectra["u"])
    keys = [jax.random.key_data(state.key).tolist() for state in states]
    assert all(keys.count(key) == 1 for key in keys)


@pytest.mark.parametrize(("fault", "calls"), FAULTS)
def test_linen_without_rollback_a_held_call_changes_no_batch_statistics(fault, calls):
    tx = salera_optax.page_hinkley(optax.sgd(0.1), rollback=False)
    before = train(linen_state(tx), INPUTS[:5])
    held = train(before, [fault * INPUTS[5]] * calls)
    assert (alarms(held), holds(held)) == (1, calls)
    assert_same_bits((held.params, held.batch_stats), (before.params, before.batch_stats))
    after = linen_step(held, INPUTS[6])
    assert holds(after) == calls
    assert not np.array_equal(
        after.batch_stats["BatchNorm_0"]["mean"], before.batch_stats["BatchNorm_0"]["mean"]
    )


@pytest.mark.parametrize("multi_steps", [optax.MultiSteps, salera_optax.MultiSteps])
def test_linen_accumulation_rolls_back_to_the_last_accepted_step(multi_steps):
    tx = multi_steps(salera_optax.salera(0.1), every_k_schedule=2)
    states = [linen_state(tx)]
    for inputs in INPUTS[:20]:
        states.append(linen_step(states[-1], inputs))
    for _ in range(3):
        assert alarms(states[-1]) == 0
        assert_same_bits(states[-1].params, states[20].params)
        for inputs in (INPUTS[20], 1e6 * INPUTS[21]):
            states.append(linen_step(states[-1], inputs))
    assert alarms(states[-1]) == 1
    # The parameters of the tenth window; the statistics that stood beside them before its end.
    assert_same_bits(states[-1].params, states[19].params)
    assert_same_bits(states[-1].batch_stats, states[19].batch_stats)
    assert not np.array_equal(
        states[20].params["Dense_1"]["bias"], states[19].params["Dense_1"]["bias"]
    )
    after = linen_step(states[-1], INPUTS[22])  # no step yet, but the statistics move on
    assert_same_bits(after.params, states[19].params)
    assert not np.array_equal(
        after.batch_stats["BatchNorm_0"]["mean"], states[19].batch_stats["BatchNorm_0"]["mean"]
    )


def test_linen_state_runs_in_a_scan_and_may_be_donated():
    state = linen_state(salera_optax.salera(0.1)).replace(step=jnp.int32(0))
    batches = INPUTS.at[10].set(np.nan).at[25:28].multiply(1e6)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, b: (linen_step(s, b), None), state, batches)[0]

    one_by_one = train(state, batches)
    scanned = jax.jit(run, donate_argnums=0)(state)
    assert (alarms(scanned), holds(scanned)) == (1, 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scanned, one_by_one
    )


def test_linen_keeps_the_scales_of_fp8_beside_the_parameters():
    params = {"params": {"w": jnp.ones(3)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.ones(())}}
    state = salera_flax.TrainState.create(apply_fn=None, params=params, tx=salera_optax.salera(0.1))
    grads = {"params": {"w": jnp.ones(3)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.float32(7)}}
    state = state.apply_gradients(grads=grads, value=1.0)
    assert float(state.params[OVERWRITE_WITH_GRADIENT]["scale"]) == 7
    assert float(state.params["params"]["w"][0]) < 1
    grads[OVERWRITE_WITH_GRADIENT]["scale"] = jnp.float32(np.nan)
    state = state.apply_gradients(grads=grads, value=jnp.nan)
    assert float(state.params[OVERWRITE_WITH_GRADIENT]["scale"]) == 7


class TestErrors:
    grads = property(lambda self: jax.tree.map(jnp.ones_like, self.state().params))

    def state(self, tx=None):
        return linen_state(tx or salera_optax.salera(0.1))

    def test_missing_value(self):
        with pytest.raises(TypeError, match=r"apply_gradients: missing argument 'value'"):
            self.state().apply_gradients(grads=self.grads)

    def test_unknown_field(self):
        with pytest.raises(TypeError, match="batch_stat"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stat={})

    def test_other_structure(self):
        with pytest.raises(ValueError, match=r"apply_gradients: batch_stats must have the tree"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stats={})

    def test_other_shape(self):
        stats = jax.tree.map(lambda x: x[:2], self.state().batch_stats)
        with pytest.raises(ValueError, match=r"batch_stats must have the shapes.*BatchNorm_0/mean"):
            self.state().apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)

    def test_state_made_without_a_guard(self):
        state, tx = self.state(optax.sgd(0.1)), salera_optax.salera(0.1)
        state = state.replace(tx=tx, opt_state=tx.init(state.params))
        with pytest.raises(ValueError, match=r"batch_stats could not come back.*not created with"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=state.batch_stats)

    def test_state_made_without_the_collection(self):
        stats = self.state().batch_stats
        state = self.state().replace(batch_stats=None)
        with pytest.raises(ValueError, match=r"the batch_stats of the state must have the tree"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)
        state = salera_flax.TrainState.create(
            apply_fn=None, params=self.grads, tx=salera_optax.salera(0.1)
        )
        with pytest.raises(ValueError, match=r"batch_stats could not come back.*not created with"):
            state.apply_gradients(grads=self.grads, value=1.0, batch_stats=stats)

    def test_flax_s_own_state_with_a_guard(self):
        state = train_state.TrainState.create(
            apply_fn=None, params=self.grads, tx=salera_optax.salera(0.1)
        )
        with pytest.raises(TypeError, match=r"missing argument 'value'.*salera_optax\.flax"):
            state.apply_gradients(grads=self.grads)

    def test_guard_that_came_later_and_no_collections(self):
        state, tx = self.state(optax.sgd(0.1)), salera_optax.salera(0.1)
        state = state.replace(tx=tx, opt_state=tx.init(state.params))
        assert state.apply_gradients(grads=self.grads, value=1.0).snapshot is None

    def test_optimizer_state_without_a_guard(self):
        state = self.state(optax.sgd(0.1)).replace(tx=salera_optax.salera(0.1))
        with pytest.raises(TypeError, match=r"state must be the PageHinkleyState.*checkpoint"):
            state.apply_gradients(grads=self.grads, value=1.0)

    def test_nnx_missing_value(self):
        net = NnxNet(nnx.Rngs(0))
        optimizer = salera_flax.Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
        grads = nnx.state(net, nnx.Param)
        with pytest.raises(TypeError, match=r"'value'.*call update\(model, grads, value=loss\)"):
            optimizer.update(net, grads)

    def test_nnx_other_model(self):
        net = NnxNet(nnx.Rngs(0))
        optimizer = salera_flax.Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
        other = NnxNet(nnx.Rngs(0), width=5)
        with pytest.raises(ValueError, match=r"update: the batch statistics must have the shapes"):
            optimizer.update(other, nnx.state(net, nnx.Param), value=1.0)


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
