"""Checkpoints with Orbax: a run goes on bit for bit, and a guard goes around an old optimizer."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import resume
from flax import nnx

import salera_optax
from salera_optax.flax import Optimizer

HELD = resume.ALARMS["salera"]  # steps done, two of them held; the next one is an alarm
ALARM = HELD + 1  # on trial from here on
LATER = resume.ALARMS["accumulated"] + 1


def saved(folder, state, step=0):
    with ocp.CheckpointManager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(state))


def restored(folder, target, step=0):
    with ocp.CheckpointManager(folder) as manager:
        return manager.restore(step, args=ocp.args.StandardRestore(target))


@pytest.mark.slow
def test_a_run_resumed_in_a_new_process_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    last = {}
    for name in resume.OPTIMIZERS:
        alarms = []
        with ocp.CheckpointManager(tmp_path / name) as manager:

            def after_step(state, manager=manager, alarms=alarms):
                alarms.append(int(salera_optax.metrics(state.opt_state)["alarms"]))
                if int(state.step) in (HELD, ALARM, LATER):
                    manager.save(int(state.step), args=ocp.args.StandardSave(state))

            last[name] = jax.tree.leaves(resume.train(resume.fresh(name), after_step))
        assert alarms.index(1) == resume.ALARMS[name]
        assert alarms[-1] == 1
    steps = [str(step) for step in (HELD, ALARM, LATER)]
    subprocess.run([sys.executable, str(Path(resume.__file__)), str(tmp_path), *steps], check=True)
    for name, expected in last.items():
        for step in steps:
            with np.load(tmp_path / f"{name}-{step}.npz") as file:
                for actual, leaf in zip(file.values(), expected, strict=True):
                    assert actual.tobytes() == np.asarray(leaf).tobytes()


def test_a_guard_goes_around_an_optimizer_from_an_old_checkpoint(tmp_path):
    params = {"w": jnp.arange(3.0)}
    adam = optax.adam(0.1)
    update = jax.jit(adam.update)
    old = adam.init(params)
    for _ in range(5):
        updates, old = update({"w": jnp.ones(3)}, old, params)
        params = optax.apply_updates(params, updates)
    saved(tmp_path, {"params": params, "opt_state": old})

    target = jax.eval_shape(lambda: {"params": params, "opt_state": adam.init(params)})
    checkpoint = restored(tmp_path, target)
    params, old = checkpoint["params"], checkpoint["opt_state"]
    guarded = salera_optax.page_hinkley(adam)
    step = jax.jit(functools.partial(salera_optax.step, guarded))
    opt_state = guarded.init(params)._replace(inner_state=old)
    # Bad minibatches from the first one on keep what Adam had learned, and shrink nothing.
    for _ in range(10):
        held, opt_state = step(params, opt_state, params, value=jnp.nan)
        np.testing.assert_array_equal(held["w"], params["w"])
    assert (int(opt_state.alarms), int(opt_state.holds)) == (0, 10)
    jax.tree.map(np.testing.assert_array_equal, opt_state.inner_state, old)
    stepped, opt_state = step(params, opt_state, params, value=1.0)
    updates, _ = update(params, old, params)
    expected = optax.apply_updates(params, updates)
    np.testing.assert_allclose(stepped["w"], expected["w"], rtol=1e-6)
    for _ in range(9):
        stepped, opt_state = step(params, opt_state, stepped, value=jnp.nan)
    assert int(opt_state.alarms) == 1
    np.testing.assert_array_equal(stepped["w"], params["w"])


def test_a_guard_goes_around_the_optimizer_of_an_old_nnx_checkpoint(tmp_path):
    def fresh():
        net = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        return net, nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param)

    net, old = fresh()
    ones = jax.tree.map(jnp.ones_like, nnx.state(net, nnx.Param))
    for _ in range(5):
        old.update(net, ones)
    saved(tmp_path, nnx.state((net, old)))

    again, old_again = fresh()
    nnx.update((again, old_again), restored(tmp_path, nnx.state((again, old_again))))
    guarded = Optimizer(again, salera_optax.page_hinkley(optax.adam(0.1)), wrt=nnx.Param)
    guarded.opt_state = guarded.opt_state._replace(inner_state=old_again.opt_state)
    before = np.asarray(again.kernel[...])
    guarded.update(again, ones, value=1.0)
    old.update(net, ones)
    np.testing.assert_array_equal(again.kernel[...], net.kernel[...])
    for _ in range(9):  # Adam never sees these gradients
        np.testing.assert_array_equal(again.kernel[...], net.kernel[...])
        assert int(guarded.opt_state.inner_state[0].count[...]) == 6
        guarded.update(again, ones, value=jnp.nan)
    assert int(guarded.opt_state.alarms[...]) == 1
    np.testing.assert_array_equal(again.kernel[...], before)  # back to what had been restored
    guarded.update(again, ones, value=1.0)
    assert int(guarded.opt_state.inner_state[0].count[...]) == 1  # and Adam starts over


def test_an_nnx_optimizer_goes_on_bit_for_bit(tmp_path):
    def fresh():
        net = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        return net, Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)

    @nnx.jit
    def train_step(net, optimizer, inputs):
        loss, grads = nnx.value_and_grad(lambda net: jnp.mean((net(inputs) - inputs) ** 2))(net)
        optimizer.update(net, grads, value=loss)

    net, optimizer = fresh()
    batches = resume.INPUTS[:16].at[5:14].set(jnp.nan)
    alarms = []
    for step, inputs in enumerate(batches):
        if step == 14:  # just after the alarm
            saved(tmp_path, nnx.state((net, optimizer)))
        train_step(net, optimizer, inputs)
        alarms.append(int(salera_optax.metrics(optimizer.opt_state)["alarms"]))
    assert alarms == [0] * 13 + [1] * 3

    again = fresh()
    nnx.update(again, restored(tmp_path, nnx.state(again)))
    for inputs in batches[14:]:
        train_step(*again, inputs)
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(nnx.state(again)),
        nnx.to_pure_dict(nnx.state((net, optimizer))),
    )


PARAMS = {"layers": [jnp.ones(3), jnp.ones(2)], "head": (jnp.ones(1),)}


def test_a_checkpoint_restores_into_lists_or_tuples(tmp_path):
    tx = optax.chain(optax.clip_by_global_norm(1.0), salera_optax.salera(0.1))
    saved(tmp_path, tx.init(PARAMS))
    other = {"layers": tuple(PARAMS["layers"]), "head": list(PARAMS["head"])}
    for params in (PARAMS, other):
        state = restored(tmp_path, jax.eval_shape(tx.init, params))
        stepped, _ = salera_optax.step(tx, params, state, params, value=1.0)
        assert float(stepped["head"][0][0]) < 1


@pytest.mark.parametrize(
    "tx",
    [
        salera_optax.salera(0.1),
        salera_optax.alera(0.1),
        salera_optax.scale_by_parameterwise_alera(),
    ],
)
def test_a_state_restored_without_its_structure_is_refused(tmp_path, tx):
    saved(tmp_path, tx.init(PARAMS))
    with ocp.CheckpointManager(tmp_path) as manager:
        state = manager.restore(0, args=ocp.args.StandardRestore())
    with pytest.raises(TypeError, match=r"state must be the .*State of init, got .*checkpoint"):
        optax.with_extra_args_support(tx).update(PARAMS, state, PARAMS, value=1.0)


def test_parameters_restored_as_lists_are_refused():
    tx = salera_optax.salera(0.1)
    lists = {"layers": PARAMS["layers"], "head": list(PARAMS["head"])}
    with pytest.raises(ValueError, match=r"params must have the tree structure.*checkpoint"):
        salera_optax.step(tx, PARAMS, tx.init(PARAMS), lists, value=1.0)


def test_an_old_state_restored_as_lists_is_refused_inside_a_guard(tmp_path):
    adam = optax.adam(0.1)
    saved(tmp_path, adam.init(PARAMS))
    with ocp.CheckpointManager(tmp_path) as manager:
        old = manager.restore(0, args=ocp.args.StandardRestore())
    tx = salera_optax.page_hinkley(adam)
    state = tx.init(PARAMS)._replace(inner_state=old)
    with pytest.raises(ValueError, match=r"inner_state must have the tree structure.*checkpoint"):
        tx.update(PARAMS, state, PARAMS, value=1.0)
