"""ALERA: examples worked by hand, groups and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import salera_optax


def test_two_steps_by_hand():
    # d = 2, alpha = 0.5, the authors' deviation 0.5/sqrt(2); normalized gradient (0.6, 0.8).
    tx = salera_optax.scale_by_alera(0.5, salera_optax.score(0.1, std="authors"))
    grads = jnp.array([3.0, 4.0])
    state = tx.init(grads)
    # path (0.3, 0.4), squared norm 0.25 = mean(1) = 0.5/1.5 (1 - 0.25): the rate stays.
    updates, state = tx.update(grads, state)
    np.testing.assert_allclose(state.path, [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(updates, grads, rtol=1e-6)
    # path (0.45, 0.6), squared norm 0.5625, mean(2) = 1/3 (1 - 0.0625) = 0.3125.
    updates, state = tx.update(grads, state)
    log_rate = 0.1 * (0.5625 - 0.3125) / (0.5 / np.sqrt(2))
    np.testing.assert_allclose(state.log_rate[""], log_rate, rtol=1e-5)
    np.testing.assert_allclose(updates, np.exp(log_rate) * grads, rtol=1e-5)


def test_two_parameterwise_steps_by_hand():
    law = salera_optax.score(0.1, std="authors")
    tx = salera_optax.scale_by_parameterwise_alera(0.5, law)
    grads = jnp.array([3.0, 4.0])
    state = tx.init(grads)
    _, state = tx.update(grads, state)
    # paths 0.3 and 0.4, squares 0.09 and 0.16, against mean(1)/2 = 0.125, deviation 0.5/2.
    expected = 0.1 * (np.array([0.09, 0.16]) - 0.125) / 0.25
    np.testing.assert_allclose(state.log_rate, expected, rtol=1e-5)


LAWS = (salera_optax.ratio(0.01), salera_optax.score(0.01))


@pytest.mark.parametrize("law", LAWS)
def test_the_rate_rises_while_gradients_agree_and_falls_while_they_alternate(law):
    tx = salera_optax.scale_by_alera(0.1, law)
    for sign, direction in ((1.0, 1), (-1.0, -1)):
        state = tx.init(jnp.ones(50))
        for t in range(50):
            _, state = tx.update(sign**t * jnp.ones(50), state)
        assert np.sign(state.log_rate[""]) == direction


@pytest.mark.parametrize("law", LAWS)
def test_the_rate_of_a_random_walk_stays_about_where_it_is(law):
    tx = salera_optax.scale_by_alera(0.1, law)
    gradients = jax.random.normal(jax.random.key(0), (2000, 100))
    state, _ = jax.lax.scan(
        lambda state, g: (tx.update(g, state)[1], None), tx.init(gradients[0]), gradients
    )
    # 2000 increments of 0.01 standard deviations, correlated over about 1/alpha steps.
    assert abs(state.log_rate[""]) < 4 * 0.01 * np.sqrt(2000 * 10)


ADAM = {"base": optax.scale_by_adam(), "second_moment": lambda state: state.nu}


@pytest.mark.parametrize(("given", "direction"), [({}, -1), (ADAM, 1)], ids=["plain", "adam"])
def test_small_coordinates_count_where_the_base_makes_them_large(given, direction):
    # One coordinate of the size 100 alternates, 63 of the size 1 agree.
    gradients = jnp.ones((100, 64)).at[:, 0].set(100 * (-1.0) ** jnp.arange(100))
    tx = salera_optax.scale_by_alera(0.1, **given)
    state = tx.init(gradients[0])
    for gradient in gradients:
        _, state = tx.update(gradient, state)
    assert np.sign(state.log_rate[""]) == direction


def test_the_path_beside_a_second_moment_is_a_random_walk_under_chance():
    sizes = jnp.logspace(-3, 3, 20)  # by which the coordinates differ
    lengths = jnp.where(jnp.arange(60) % 7 == 0, 1e-3, 1.0)  # and the steps
    tx = salera_optax.scale_by_alera(0.1, salera_optax.ratio(0.0), **ADAM)

    def walk(key):
        gradients = lengths[:, None] * sizes * jax.random.normal(key, (60, 20))
        state, _ = jax.lax.scan(
            lambda state, g: (tx.update(g, state)[1], None), tx.init(sizes), gradients
        )
        return jnp.sum(jnp.square(state.path)) / state.lengths[0, 1]

    ratios = jax.vmap(walk)(jax.random.split(jax.random.key(0), 4000))
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(4000)


@pytest.mark.parametrize(
    ("small", "dtype"), [(1e-15, "float32"), (1e-25, "float32"), (1e-4, "float16")]
)
def test_gradients_whose_squares_vanish_still_have_a_path_and_do_not_rule_it(small, dtype):
    tx = salera_optax.scale_by_alera(0.5, eps=0.0, **ADAM)
    gradient = jnp.array([small, 0.0, -small, 1.0], dtype)
    _, state = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(jnp.abs(state.path), [0, 0, 0, 0.5], atol=0.01)


def test_a_gradient_whose_norm_overflows_leaves_the_path_finite():
    tx = salera_optax.scale_by_alera(0.5, **ADAM)
    state = tx.init(jnp.ones(2))
    for size in (1.0, 1e25, 1.0):
        _, state = tx.update(jnp.full(2, size), state)
    assert np.isfinite(state.path).all()


def test_a_second_moment_of_another_structure_is_refused():
    tx = salera_optax.scale_by_alera(second_moment=lambda state: state)
    with pytest.raises(ValueError, match="second_moment"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_groups_share_a_rate_and_a_norm():
    params = {"x": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "y": jnp.ones(2)}
    grads = jax.tree.map(lambda p: 2.0 * p, params)

    def rates(groups):
        tx = salera_optax.scale_by_alera(0.1, groups=groups)
        state = tx.init(params)
        for _ in range(3):
            _, state = tx.update(grads, state)
        return state.log_rate

    assert list(rates(None)) == ["x/bias", "x/kernel", "y"]
    assert list(rates("all")) == ["all"]
    assert list(rates(salera_optax.by_module)) == ["root", "x"]
    assert list(rates({"x": "one", "y": "two"})) == ["one", "two"], "a prefix is enough"
    flat = salera_optax.scale_by_alera(0.1)
    vector = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])
    state = flat.init(vector)
    for _ in range(3):
        _, state = flat.update(vector, state)
    np.testing.assert_allclose(rates("all")["all"], state.log_rate[""], rtol=1e-5)


def test_an_abstract_state_has_the_names_of_its_groups():
    state = jax.eval_shape(salera_optax.scale_by_alera().init, {"b": jnp.ones(3), "a": jnp.ones(2)})
    assert {name: rate.shape for name, rate in state.log_rate.items()} == {"a": (), "b": ()}


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65])
def test_every_leaf_reads_the_rate_of_its_group(count):
    rng = np.random.default_rng(0)
    names = [f"{i:02}" for i in range(count)]
    params = {name: jnp.asarray(rng.standard_normal(3), jnp.float32) for name in names}
    tx = salera_optax.scale_by_alera(0.1)
    state = tx.init(params)
    rates = jnp.asarray(rng.standard_normal(count), jnp.float32)
    updates, state = tx.update(params, state._replace(log_rates=rates))
    assert list(state.log_rate) == names
    for name in names:
        expected = params[name] * jnp.exp(state.log_rate[name])
        np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
    np.testing.assert_allclose(state.log_rates, rates, atol=0.1)


def test_names_of_leaves_are_never_mixed_up():
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.ones(3)}}
    state = salera_optax.scale_by_alera().init(params)
    assert len(state.log_rate) == 2


def test_by_module_labels_a_linen_model_by_layer():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2)(linen.BatchNorm(use_running_average=True)(linen.Dense(4)(x)))

    params = Model().init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    labels = salera_optax.by_module(params)
    assert set(jax.tree.leaves(labels)) == {"Dense_0", "BatchNorm_0", "Dense_1"}
    assert labels["Dense_0"]["kernel"] == labels["Dense_0"]["bias"]


def test_by_module_labels_an_nnx_model_by_layer():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.second = nnx.Linear(4, 2, rngs=rngs)

    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    tx = salera_optax.scale_by_alera(groups=salera_optax.by_module)
    assert list(tx.init(state).log_rate) == ["first", "second"]


def test_a_complex_leaf_moves_as_its_real_and_imaginary_parts_do():
    rng = np.random.default_rng(0)
    tx = salera_optax.scale_by_alera(0.1)
    parts = jnp.asarray(rng.standard_normal((20, 2, 5)), jnp.float32)
    complex_state = tx.init(jnp.zeros(5, jnp.complex64))
    real_state = tx.init(jnp.zeros((2, 5)))
    for part in parts:
        complex_updates, complex_state = tx.update(part[0] + 1j * part[1], complex_state)
        real_updates, real_state = tx.update(part, real_state)
    np.testing.assert_allclose(complex_state.log_rate[""], real_state.log_rate[""], rtol=1e-4)
    np.testing.assert_allclose(complex_updates.imag, real_updates[1], rtol=1e-5)


@pytest.mark.parametrize("law", [salera_optax.ratio(1e6), salera_optax.score(1e6)])
def test_the_rate_never_overflows(law):
    tx = salera_optax.scale_by_alera(0.5, law)
    state = tx.init(jnp.ones(3))
    for _ in range(20):
        updates, state = tx.update(jnp.ones(3), state)
    assert jnp.isfinite(updates).all()


def test_momentum_leaves_the_path_to_the_raw_gradient():
    plain, heavy = (
        salera_optax.alera(0.1, alpha=0.1, momentum=m, nesterov=False) for m in (None, 0.9)
    )
    params = jnp.ones(4)
    a, b = plain.init(params), heavy.init(params)
    for _ in range(3):
        slow, a = plain.update(params, a, params)
        fast, b = heavy.update(params, b, params)
    np.testing.assert_array_equal(a[1].path, b[1].path)
    np.testing.assert_allclose(fast, (1 + 0.9 + 0.81) * slow, rtol=1e-5)


def test_weight_decay_enters_the_gradient_where_there_is_one_and_is_masked():
    decay = {"weight_decay": 0.01, "mask": {"w": True, "b": False}}
    decayed, plain = salera_optax.alera(0.1, **decay), salera_optax.alera(0.1)
    params = {"w": jnp.ones(3), "b": jnp.ones(3)}
    gradients = {"w": jnp.array([1.0, 0.0, -2.0]), "b": jnp.ones(3)}
    with_decay = {"w": jnp.array([1.01, 0.0, -1.99]), "b": jnp.ones(3)}
    a, b = decayed.init(params), plain.init(params)
    for _ in range(3):
        x, a = decayed.update(gradients, a, params)
        y, b = plain.update(with_decay, b, params)
        jax.tree.map(np.testing.assert_array_equal, x, y)


def test_the_balance_of_gradient_and_weight_decay_is_no_agreement():
    # The gradient alone agrees with itself there for ever.
    tx = salera_optax.alera(0.1, weight_decay=0.01)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(x - 1, state, x)
        return (optax.apply_updates(x, updates), state), None

    x = jnp.zeros(3)
    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=1000)
    np.testing.assert_allclose(x, 1 / 1.01, rtol=1e-5)


def test_decoupled_weight_decay_is_multiplied_by_the_self_tuned_rate():
    mask = {"w": True, "b": False}
    tx = salera_optax.ag_adam(0.1, weight_decay=0.01, mask=mask, nesterov=False)
    params = {"w": jnp.ones(3), "b": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
    np.testing.assert_allclose(updates["w"], 1.01 * updates["b"], rtol=1e-5)


@pytest.mark.parametrize("factory", [salera_optax.alera, salera_optax.ag_adam])
def test_a_schedule_multiplies_the_self_tuned_rate(factory):
    schedule = optax.piecewise_constant_schedule(8e-4, {1: 0.5})
    params = jnp.ones(3)
    scheduled, constant = factory(schedule), factory(4e-4)
    a, b = scheduled.init(params), constant.init(params)
    for factor in (2.0, 1.0):
        x, a = scheduled.update(params, a, params)
        y, b = constant.update(params, b, params)
        np.testing.assert_allclose(x, factor * y, rtol=1e-5)


def test_outliers_are_stepped_as_four_usual_gradients_and_lower_the_rate():
    tx = salera_optax.alera(1.0, law=salera_optax.ratio(0.0), momentum=None)
    direction = jnp.array([0.6, 0.8])
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}

    def steps(*lengths):
        """Those of leaf `a` for gradients so long; `b` has one of the length 1 each time."""
        state = tx.init(params)
        for length in lengths:
            updates, state = tx.update({"a": length * direction, "b": direction}, state, params)
            np.testing.assert_allclose(updates["b"], -direction, rtol=1e-6)
            yield float(-updates["a"] @ direction)

    np.testing.assert_allclose([*steps(*[1] * 9, 3, 1)], [1] * 9 + [3, 1], rtol=1e-6)
    # It counts for ten in the mean square, a tenth of which is new: 1 + 99/10.
    rate = 1 / np.sqrt(10.9)
    np.testing.assert_allclose([*steps(*[1] * 9, 100, 1)], [1] * 9 + [4 * rate, rate], rtol=1e-5)
    assert max(steps(*[1] * 9, *[1e6] * 90)) < 4, "no longer where gradients have grown for good"
    np.testing.assert_allclose([*steps(0, 0, 100)], [0, 0, 100], err_msg="the first is usual")
