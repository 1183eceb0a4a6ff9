"""The wrapper: what an alarm does to parameters, inner state, steps and counts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

NAN = float("nan")


def tree(*values):
    return {"a": jnp.array(values[:2]), "b": {"c": jnp.array(values[2:])}}


PARAMS = tree(1.0, -2.0, 0.1, 3.0)
GRADS = tree(0.3, 0.2, -0.1, 0.7)


def ones_like(params):
    return jax.tree.map(jnp.ones_like, params)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_an_alarm_returns_the_parameters_of_before_the_last_step():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    params, state = salera_optax.step(tx, GRADS, state, params, value=NAN)
    assert state.alarm
    assert_same_bits(params, PARAMS)


def test_the_step_after_an_alarm_is_half_as_long():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    params, state = salera_optax.step(tx, GRADS, state, params, value=1e9)
    assert state.alarm
    params, state = salera_optax.step(tx, GRADS, state, params, value=1.0)
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.05 * GRADS["a"], rtol=1e-6)
    assert not state.alarm
    assert state.alarms == 1


@pytest.mark.parametrize("size", [0.5, 3.0, 1e3, 1e6, 1e15, 1e30])
def test_apply_updates_is_back_on_the_snapshot_bit_for_bit_one_step_later(size):
    key = jax.random.key(0)
    before = {"w": jax.random.normal(key, (1000,)), "v": 1e-3 * jax.random.normal(key, (1000,))}
    tx = salera_optax.page_hinkley(optax.scale(size))
    state = tx.init(before)
    jump = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), before)
    updates, state = tx.update(jump, state, before, value=1.0)
    after = optax.apply_updates(before, updates)

    updates, state = tx.update(ones_like(after), state, after, value=jnp.inf)
    restored = optax.apply_updates(after, updates)
    assert state.alarm
    exact_at_once = all(bool((restored[k] == before[k]).all()) for k in before)
    steps_before = int(state.detector.n)

    updates, state = tx.update(ones_like(after), state, restored, value=0.5)
    final = optax.apply_updates(restored, updates)
    if exact_at_once:
        assert state.detector.n == steps_before + 1, "nothing to mend: a gradient step"
    else:
        assert_same_bits(final, before)
        assert state.detector.n == steps_before, "no gradient step before the rollback is exact"
    assert not state.alarm
    assert state.alarms == 1


def test_a_rollback_that_can_never_be_exact_holds_the_run_up_for_one_call_only():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    _, state = tx.update(GRADS, state, params, value=NAN)
    moved = jax.tree.map(lambda p: p + 1, PARAMS)  # as a projection of the parameters would
    _, state = tx.update(GRADS, state, moved, value=1.0)
    assert state.detector.n == 0
    updates, state = tx.update(GRADS, state, moved, value=1.0)
    assert state.detector.n == 1
    np.testing.assert_allclose(updates["a"], -0.05 * GRADS["a"], rtol=0.02)


def test_parameters_come_back_from_nan():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), params)
    params, state = salera_optax.step(tx, lost, state, lost, value=NAN)
    assert_same_bits(params, PARAMS)


def test_no_update_is_ever_non_finite():
    tx = salera_optax.page_hinkley(optax.scale(-1e30))
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(lambda g: 1e9 * g, GRADS), state, PARAMS, value=1.0)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))
    lost = jax.tree.map(lambda p: jnp.full_like(p, NAN), PARAMS)
    updates, state = tx.update(GRADS, state, lost, value=NAN)
    assert all(jnp.isfinite(u).all() for u in jax.tree.leaves(updates))


def test_the_inner_state_goes_back_too():
    tx = salera_optax.page_hinkley(optax.trace(0.9))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    before = state.inner_state
    bad = jax.tree.map(lambda g: 5 * g, GRADS)
    params, state = salera_optax.step(tx, bad, state, params, value=1.0)
    params, state = salera_optax.step(tx, GRADS, state, params, value=1e9)
    assert state.alarm
    assert_same_bits(state.inner_state, before)


def test_without_restore_inner_the_state_stays_and_on_alarm_mends_it():
    def zero(inner_state):
        return jax.tree.map(jnp.zeros_like, inner_state)

    kept = salera_optax.page_hinkley(optax.trace(0.9), restore_inner=False)
    mended = salera_optax.page_hinkley(optax.trace(0.9), restore_inner=False, on_alarm=zero)
    for tx, expected in ((kept, GRADS), (mended, zero(GRADS))):
        params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
        _, state = salera_optax.step(tx, GRADS, state, params, value=NAN)
        assert state.inner_snapshot is None
        assert_same_bits(state.inner_state.trace, expected)


def test_without_rollback_an_alarm_only_skips_the_step():
    tx = salera_optax.page_hinkley(optax.sgd(0.1), rollback=False)
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    after, state = salera_optax.step(tx, GRADS, state, params, value=1e9)
    assert state.alarm
    assert state.snapshot is None
    assert_same_bits(after, params)


def test_a_run_of_bad_minibatches_shrinks_the_steps_once_and_they_grow_back():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))

    @jax.jit
    def run(params, state, values):
        def body(carry, value):
            params, state = carry
            return salera_optax.step(tx, GRADS, state, params, value=value), None

        return jax.lax.scan(body, (params, state), values)[0]

    params, state = run(PARAMS, tx.init(PARAMS), jnp.ones(10))
    params, state = run(params, state, jnp.full(1000, jnp.nan))
    assert salera_optax.metrics(state)["scale"] == 0.5
    assert state.alarms == state.nonfinite == 1000
    params, state = run(params, state, jnp.ones(110))
    assert salera_optax.metrics(state)["scale"] == 1.0


def test_bad_minibatches_for_ever_leave_a_thousandth_of_the_step():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    values = jnp.tile(jnp.array([1.0, 1.0, jnp.nan]), 500)

    def body(carry, value):
        params, state = carry
        return salera_optax.step(tx, GRADS, state, params, value=value), None

    (_, state), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), values)
    assert 2**-10 <= salera_optax.metrics(state)["scale"] < 2**-9


def test_three_alarms_in_succession_after_single_steps_shrink_for_good():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = PARAMS, tx.init(PARAMS)
    scales, recoveries = [], []
    for value in (1.0, NAN, *[1.0, NAN] * 5, 1.0, 1.0, NAN):
        params, state = salera_optax.step(tx, GRADS, state, params, value=value)
        scales.append(float(state.scale))
        recoveries.append(float(state.recovery))
    assert scales[1:12:2] == [1, 1, 1, 1 / 8, 1 / 16, 1 / 32]
    np.testing.assert_allclose(
        recoveries[1:12:2], [1 / 2, 1 / 4, 1 / 8, 1 / 2, 1 / 2, 1 / 2], rtol=0.1
    )
    assert state.scale == 1 / 32, "two quiet steps end the succession"
    assert state.alarms == 7


@pytest.mark.parametrize(("detector", "third"), [("robust", 1 / 8), ("published", 1 / 2)])
def test_a_catastrophe_after_a_third_single_step_shrinks_by_the_cube(detector, third):
    tx = salera_optax.page_hinkley(optax.sgd(0.1), detector=detector)
    params, state = PARAMS, tx.init(PARAMS)
    scales = []
    for value in [1.0, 1e6] * 5:
        params, state = salera_optax.step(tx, GRADS, state, params, value=value)
        scales.append(float(state.scale))
        assert state.recovery <= 1
    shrunk = np.cumprod([1 / 2, 1 / 2, 1 / 2, third, 1 / 2])
    np.testing.assert_array_equal(scales[1::2], shrunk)


def test_one_bad_minibatch_in_ten_leaves_the_steps_their_length():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    bad = np.random.default_rng(0).random(5000) < 0.1

    def body(carry, bad):
        params, state = carry
        value = jnp.where(bad, NAN, 1.0)
        return salera_optax.step(tx, GRADS, state, params, value=value), None

    (_, state), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), jnp.array(bad))
    assert state.alarms == bad.sum()
    assert state.scale >= 2.0**-6


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


def test_catastrophes_never_bring_the_scale_to_zero():
    tx = salera_optax.page_hinkley(optax.sgd(1e-3), detector="published")
    values = jnp.tile(jnp.array([1.0, 1e9]), 200)

    def body(carry, value):
        params, state = carry
        return salera_optax.step(tx, GRADS, state, params, value=value), None

    (_, state), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), values)
    assert state.scale == 2.0**-50


def test_value_and_further_arguments_reach_the_inner_optimizer():
    seen = {}

    def update(updates, state, params=None, **extra):
        del params
        seen.update(extra)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = salera_optax.page_hinkley(inner)
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0, grad=GRADS)
    assert set(seen) == {"value", "grad"}


def test_reset_path_forgets_path_and_step_but_keeps_the_rates():
    for reset in (True, False):
        tx = salera_optax.salera(0.1, alpha=0.1, reset_path=reset)
        params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
        params, state = salera_optax.step(tx, GRADS, state, params, value=1.0)
        rates = state.inner_state[0].log_rate
        _, state = salera_optax.step(tx, GRADS, state, params, value=NAN)
        after = state.inner_state[0]
        assert after.log_rate == rates
        assert (after.step == 0) == reset
        assert bool(optax.tree.norm(after.path) == 0) == reset


def test_the_published_detector_ignores_a_spike_of_the_gradient():
    spike = jax.tree.map(lambda g: 1e4 * g, GRADS)
    for detector, alarm in (("robust", True), ("published", False)):
        tx = salera_optax.page_hinkley(optax.sgd(0.1), detector=detector)
        params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
        _, state = salera_optax.step(tx, spike, state, params, value=1.0)
        assert bool(state.alarm) == alarm


@pytest.mark.parametrize("option", ["rollback", "restore_inner"])
def test_the_state_of_a_guard_without_a_snapshot_is_refused_by_one_with_it(option):
    state = salera_optax.page_hinkley(optax.sgd(0.1, 0.9), **{option: False}).init(PARAMS)
    tx = salera_optax.page_hinkley(optax.sgd(0.1, 0.9))
    with pytest.raises(ValueError, match="page_hinkley"):
        tx.update(GRADS, state, PARAMS, value=1.0)


def test_step_takes_the_update_that_was_put_in_place_of_the_guards():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))

    def twice(*args, **extra):
        updates, state = tx.update(*args, **extra)
        return jax.tree.map(lambda u: 2 * u, updates), state

    state = tx.init(PARAMS)
    params, _ = salera_optax.step(tx._replace(update=twice), GRADS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(params["a"], PARAMS["a"] - 0.2 * GRADS["a"])


def test_step_and_update_may_take_turns():
    tx = salera_optax.page_hinkley(optax.sgd(0.1))
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    updates, state = tx.update(GRADS, state, params, value=NAN)
    assert state.alarm
    rounded = optax.apply_updates(params, updates)
    # An alarm of `update` leaves it to the next call to restore the last bit.
    params, state = salera_optax.step(tx, GRADS, state, rounded, value=1.0)
    assert_same_bits(params, PARAMS)
    params, state = salera_optax.step(tx, GRADS, state, params, value=NAN)
    assert_same_bits(params, PARAMS)
    updates, state = tx.update(GRADS, state, params, value=1.0)
    assert not state.alarm
    np.testing.assert_allclose(updates["a"], -0.05 * GRADS["a"], rtol=0.01)


def test_masked_leaves_are_left_to_the_rest_of_the_chain():
    mask = {"a": True, "b": {"c": False}}
    tx = optax.masked(salera_optax.page_hinkley(optax.sgd(0.1)), mask)
    params, state = salera_optax.step(tx, GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    restored, state = salera_optax.step(tx, GRADS, state, params, value=NAN)
    assert_same_bits(restored["a"], PARAMS["a"])
    np.testing.assert_allclose(restored["b"]["c"], params["b"]["c"] + GRADS["b"]["c"])


def copies(compiled, shape):
    """The copies of an array in a program, but those in a branch that only returns its operands."""
    found = []
    for computation in compiled.as_text().split("\n}\n"):
        operations = set(re.findall(r" = \S+ ([a-z-]+)\(", computation))
        if not operations <= {"parameter", "get-tuple-element", "copy", "tuple"}:
            found += re.findall(rf".*{re.escape(shape)}\S* copy\(.*", computation)
    return found


def test_the_common_path_of_the_compiled_step_copies_no_parameter():
    size = 1 << 16
    tx = salera_optax.page_hinkley(optax.adam(1e-3))

    def train(params, state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p - batch) ** 2))(params)
        return salera_optax.step(tx, grads, state, params, value=loss)

    params = jnp.ones(size)
    compiled = (
        jax.jit(train, donate_argnums=(0, 1)).lower(params, tx.init(params), params).compile()
    )
    assert not copies(compiled, f"f32[{size}]")


@pytest.mark.parametrize(
    ("guarded", "plain", "snapshots"),
    [
        (salera_optax.salera(0.1), salera_optax.alera(0.1), 1),
        (salera_optax.page_hinkley(optax.adam(0.1)), optax.adam(0.1), 3),
        (
            salera_optax.page_hinkley(optax.sgd(0.1, 0.9), restore_inner=False),
            optax.sgd(0.1, 0.9),
            1,
        ),
    ],
    ids=["salera", "adam", "momentum, not restored"],
)
def test_the_guard_needs_its_snapshots_and_one_temporary_and_copies_nothing(
    guarded, plain, snapshots
):
    params = {name: jnp.ones((500, 300)) for name in "ab"}  # no multiples of 32
    unit = 2 * 500 * 300 * 4

    def compiled(tx):
        def train(params, state, batch):
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((jnp.tanh(batch @ p["a"]) @ p["b"].T - batch) ** 2)
            )(params)
            return salera_optax.step(tx, grads, state, params, value=loss)

        arguments = params, tx.init(params), jnp.ones((4, 500))
        return jax.jit(train, donate_argnums=(0, 1)).lower(*arguments).compile()

    def numbers(tx):
        return sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)))

    step = compiled(guarded)
    memory = step.memory_analysis()
    assert not copies(step, "f32[500,300]")
    assert memory.alias_size_in_bytes > memory.output_size_in_bytes - 1000  # all in place
    extra = memory.temp_size_in_bytes - compiled(plain).memory_analysis().temp_size_in_bytes
    assert extra <= 1.05 * unit
    assert 4 * (numbers(guarded) - numbers(plain)) == pytest.approx(snapshots * unit, rel=0.01)
