"""Many devices: sharded by `jit`, in explicit mode, and under `shard_map` and `pmap`.

Needs `XLA_FLAGS=--xla_force_host_platform_device_count=8`; `test_devices.py` runs it so.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from device_runs import (
    ALARM,
    HELD,
    LAYOUTS,
    OPTIMIZERS,
    SIZE,
    STEPS,
    assert_close,
    data,
    each_layout_and_each_optimizer,
    loss_fn,
    make_mesh,
    on_one_device,
    parameters,
    placed,
    shardings,
    train,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import salera_optax
from benchmarks import data as datasets
from benchmarks.grid.measure import run_grid
from benchmarks.grid.results import Results
from benchmarks.run import Run


@each_layout_and_each_optimizer
def test_jit_equals_one_device_and_the_state_is_sharded_like_the_parameters(layout, name):
    tx, layout = OPTIMIZERS[name](0.1), LAYOUTS[layout]
    mesh = make_mesh(layout, AxisType.Auto)
    params, inputs, targets = placed(layout, mesh)
    state = jax.jit(tx.init)(params)
    (params, state), alarm = jax.jit(train, static_argnums=0)(tx, params, inputs, targets, state)
    assert np.flatnonzero(alarm).tolist() == [ALARM]
    expected_params, expected_state = on_one_device(name)
    assert_close(params, expected_params)
    assert_close(state, expected_state)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_init_and_step_keep_the_sharding_of_the_parameters(layout, jitted):
    tx = salera_optax.spalera(0.1)
    params, inputs, targets = placed(layout, make_mesh(layout, AxisType.Auto))
    state = (jax.jit(tx.init) if jitted else tx.init)(params)

    @jax.jit
    def one_step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params, inputs[0], targets[0])
        return salera_optax.step(tx, grads, state, params, value=loss)

    for _ in range(2):
        alera = state.inner_state[1]
        for tree in (state.snapshot, alera.path, alera.log_rate):
            assert all(
                leaf.sharding.is_equivalent_to(param.sharding, param.ndim)
                for leaf, param in zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True)
            )
        params, state = one_step(params, state)


def test_init_under_jit_with_abstract_inputs_and_given_shardings():
    layout = LAYOUTS["two axes"]
    tx = OPTIMIZERS["guarded ag_adam"](0.1)
    mesh = make_mesh(layout, AxisType.Auto)
    params, *_ = placed(layout, mesh)
    abstract = jax.eval_shape(tx.init, jax.eval_shape(lambda: params))
    specs = optax.tree.map_params(
        tx,
        lambda _, spec: NamedSharding(mesh, spec),
        abstract,
        layout.specs,
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )
    state = jax.jit(tx.init, out_shardings=specs)(params)
    assert jax.eval_shape(lambda: state) == abstract
    for tree in (
        state.snapshot,
        state.inner_state[0].path,
        state.inner_state[0].base_state[0].mu,
    ):
        assert shardings(tree) == layout.specs


@each_layout_and_each_optimizer
def test_explicit_mode_equals_one_device(layout, name):
    tx, layout = OPTIMIZERS[name](0.1), LAYOUTS[layout]
    mesh = make_mesh(layout, AxisType.Explicit)
    with jax.sharding.set_mesh(mesh):
        params, inputs, targets = placed(layout, mesh)
        gathered = jax.tree.map(lambda _: P(), layout.specs)

        def one_step(carry, batch):
            params, state = carry

            def loss(params):  # the weights are gathered, as fully sharded training does
                return loss_fn(jax.tree.map(jax.sharding.reshard, params, gathered), *batch)

            value, grads = jax.value_and_grad(loss)(params)
            params, state = salera_optax.step(tx, grads, state, params, value=value)
            return (params, state), state.alarm

        @jax.jit
        def run(params, inputs, targets):
            return jax.lax.scan(one_step, (params, tx.init(params)), (inputs, targets))

        (params, state), alarm = run(params, inputs, targets)
        assert np.flatnonzero(alarm).tolist() == [ALARM]
        assert shardings(state.snapshot) == shardings(params)
    expected_params, expected_state = on_one_device(name)
    assert_close(params, expected_params)
    assert_close(state, expected_state)


@pytest.mark.parametrize("mode", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("gradients", ["x", None])
def test_a_small_leaf_whose_sharding_cannot_be_split_is_summed(mode, gradients):
    mesh = jax.make_mesh((5,), ("x",), axis_types=(mode,), devices=jax.devices()[:5])
    params = jnp.linspace(-1, 1, 40)  # folded into 8 times 5, and 8 is no multiple of 5
    sharded = jax.device_put(params, NamedSharding(mesh, P("x")))

    def run(params, grads):
        tx = salera_optax.salera_adamw()
        state = jax.jit(tx.init)(params)
        for _ in range(3):
            params, state = jax.jit(partial(salera_optax.step, tx))(
                grads, state, params, value=jnp.float32(1)
            )
        return params

    with jax.sharding.set_mesh(mesh):
        found = run(sharded, jax.device_put(params, NamedSharding(mesh, P(gradients))))
    assert found.sharding.spec == P("x")
    assert_close(found, run(params, params))


@pytest.mark.parametrize("size", [40, 200, 1000, 1024])
def test_no_small_leaf_is_gathered_to_be_summed(size):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    params = jax.device_put(jnp.ones(size), NamedSharding(mesh, P("x")))
    tx = salera_optax.salera_adamw()
    state = jax.jit(tx.init)(params)
    step = jax.jit(partial(salera_optax.step, tx))
    compiled = step.lower(params, state, params, value=jnp.float32(1)).compile()
    assert "all-reduce" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()


def mapped(tx, layout, mesh, apply=salera_optax.step):
    """The run under `shard_map`: weights gathered by hand, gradients scattered by its transpose."""

    def run(params, state, inputs, targets):
        def one_step(carry, batch):
            params, state = carry

            def loss(params):
                whole = {name: gathered(params[name], layout.specs[name]) for name in params}
                return loss_fn(whole, *batch)

            # The loss is that of the examples on this device; the gradient is summed over all.
            value, grads = jax.value_and_grad(loss)(params)
            grads = jax.tree.map(lambda g: g / jax.lax.axis_size(layout.names), grads)
            params, state = apply(tx, grads, state, params, value=value)
            return (params, state), state.alarm

        return jax.lax.scan(one_step, (params, state), (inputs, targets))

    specs = optax.tree.map_params(
        tx,
        lambda _, spec: spec,
        jax.eval_shape(tx.init, parameters()),
        layout.specs,
        transform_non_params=lambda _: P(),
    )
    carried = (layout.specs, specs)
    split = P(None, "data")
    return jax.jit(
        jax.shard_map(run, mesh=mesh, in_specs=(*carried, split, split), out_specs=(carried, P()))
    )


def gathered(leaf, spec):
    for axis, name in enumerate(spec):
        if name is not None:
            leaf = jax.lax.all_gather(leaf, name, axis=axis, tiled=True)
    return leaf


@pytest.mark.parametrize(
    ("layout", "name", "fault"),
    [(layout, "salera", fault) for layout in LAYOUTS for fault in (1e4, np.nan)]
    + [("two axes", name, 1e4) for name in OPTIMIZERS if name != "salera"],
)
def test_shard_map_equals_one_device(layout, name, fault):
    layout = LAYOUTS[layout]
    tx = OPTIMIZERS[name](0.1, axis_name=layout.names)
    mesh = make_mesh(layout, AxisType.Auto)
    params, inputs, targets = placed(layout, mesh, fault)
    (params, state), alarm = mapped(tx, layout, mesh)(params, tx.init(params), inputs, targets)
    assert np.flatnonzero(alarm).tolist() == [ALARM]
    expected_params, expected_state = on_one_device(name, fault)
    assert_close(params, expected_params)
    assert_close(state, expected_state)


def test_shard_map_finishes_an_inexact_rollback_on_all_devices_together():
    def by_addition(tx, grads, state, params, *, value):
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    layout = LAYOUTS["fully sharded"]
    mesh = make_mesh(layout, AxisType.Auto)
    params, inputs, targets = placed(layout, mesh)
    tx = salera_optax.page_hinkley(optax.sgd(0.1), axis_name="data")
    run = mapped(tx, layout, mesh, by_addition)
    (params, state), _ = run(params, tx.init(params), inputs[:15], targets[:15])
    assert int(state.holds) == 0
    # One entry, on one device, has exploded so far that subtracting it cannot be exact.
    broken = params | {"w2": params["w2"].at[5].set(1e6)}
    (held, after), _ = run(broken, state, inputs[:2], targets[:2])
    jax.tree.map(np.testing.assert_array_equal, held, broken)
    (once, after), _ = run(held, after, inputs[:1], targets[:1])
    assert after.action.go_back
    assert not np.array_equal(once["w2"], state.snapshot["w2"])
    (twice, after), _ = run(once, after, inputs[:1], targets[:1])
    jax.tree.map(np.testing.assert_array_equal, twice, state.snapshot)
    assert (int(after.alarms), int(after.holds)) == (1, 3)  # the last call only mends


def test_rates_of_sharded_and_of_replicated_leaves_need_the_name_of_the_axis():
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    params, specs = {"a": jnp.arange(8.0), "b": jnp.ones(3)}, {"a": P("data"), "b": P()}

    def moved(axis_name, params):
        tx = salera_optax.scale_by_alera(0.1, axis_name=axis_name)
        return tx.update(params, tx.init(params))[0]

    def over_devices(axis_name):
        step = partial(moved, axis_name)
        return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=specs))(params)

    with pytest.raises(ValueError, match=r"axis_name must name every axis.*without 'data'"):
        over_devices(None)
    jax.tree.map(
        lambda ours, one: np.testing.assert_allclose(ours, one, rtol=1e-5),
        over_devices("data"),
        moved(None, params),
    )


def test_shard_map_names_the_axis_that_is_missing():
    layout = LAYOUTS["fully sharded"]
    mesh = make_mesh(layout, AxisType.Auto)
    for optimizer in (salera_optax.salera(0.1), salera_optax.salera(0.1, axis_name="other")):
        params, *batches = placed(layout, mesh)
        with pytest.raises(ValueError, match=r"axis_name must name every axis.*without 'data'"):
            mapped(optimizer, layout, mesh)(params, optimizer.init(params), *batches)


def test_replicas_give_the_inner_optimizer_the_same_loss():
    tx = salera_optax.page_hinkley(optax.polyak_sgd(1.0), axis_name="data")
    inputs, targets = data(fault=0.0)
    split = [x[0].reshape(8, SIZE // 8, -1) for x in (inputs, targets)]

    def one_step(params, inputs, targets):
        loss, grads = jax.value_and_grad(loss_fn)(params, inputs, targets)
        grads = jax.lax.pmean(grads, "data")
        return salera_optax.step(tx, grads, tx.init(params), params, value=loss)[0]

    params = jax.pmap(one_step, "data", in_axes=(None, 0, 0))(parameters(), *split)
    for leaf in jax.tree.leaves(params):
        assert (np.asarray(leaf) == np.asarray(leaf)[0]).all()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_pmap_holds_and_goes_back_for_a_nan_of_any_one_replica(what):
    tx = salera_optax.salera(0.1, axis_name="data")
    inputs, targets = data(fault=0.0)
    split = [jnp.moveaxis(x.reshape(STEPS, 8, SIZE // 8, -1), 1, 0) for x in (inputs, targets)]

    def run(params, inputs, targets):
        def one_step(carry, batch):
            params, state = carry
            faulty = (state.step == HELD) | ((state.step > ALARM - 9) & (state.step <= ALARM))
            bad = (jax.lax.axis_index("data") == 3) & faulty
            loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
            if what == "loss":
                loss = jnp.where(bad, jnp.nan, loss)
            else:
                grads = jax.tree.map(lambda g: jnp.where(bad, jnp.nan, g), grads)
            grads = jax.lax.pmean(grads, "data")
            params, state = salera_optax.step(tx, grads, state, params, value=loss)
            return (params, state), state.action

        return jax.lax.scan(one_step, (params, tx.init(params)), (inputs, targets))

    (params, state), action = jax.pmap(run, "data", in_axes=(None, 0, 0))(parameters(), *split)
    assert (
        np.flatnonzero(np.asarray(action.hold).all(0)) == [HELD, *range(ALARM - 8, ALARM + 1)]
    ).all()
    for done in (action.alarm, action.go_back):
        assert (np.asarray(done).sum(0) == np.where(np.arange(STEPS) == ALARM, 8, 0)).all()
    for leaf in jax.tree.leaves((params, state)):
        same = np.broadcast_to(np.asarray(leaf)[0], leaf.shape)
        np.testing.assert_array_equal(leaf, same)  # a NaN of the history too


def test_the_grid_of_experiments_runs_on_all_devices(tmp_path):
    rates = [0.01 * 2**index for index in range(11)]  # not a multiple of the devices
    runs = [
        Run("digits", "m0", 0.05, 2, "salera", (("learning_rate", rate),), seed=0) for rate in rates
    ]
    dataset = datasets.load("digits")
    run_grid(runs, dataset, Results(tmp_path / "all"))
    run_grid(runs[3:4], dataset, Results(tmp_path / "one"))
    results = dict(Results(tmp_path / "all"))
    assert set(results) == set(runs)
    assert {result["devices"] for result in results.values()} == {8}
    (alone,) = dict(Results(tmp_path / "one")).values()
    np.testing.assert_allclose(results[runs[3]]["train_loss"], alone["train_loss"], rtol=1e-4)
