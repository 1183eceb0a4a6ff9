"""How long the steps of ALERA may be: small beside the parameters, at first above all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import salera_optax

PARAMS = {"kernel": 0.1 * jnp.ones((3, 4)), "bias": jnp.zeros(4)}
SIZE = 0.1 * np.sqrt(12 / 16)  # root mean square of all of them
ONES = jax.tree.map(jnp.ones_like, PARAMS)


class Maker:
    """One of the optimizers, plain, and the shares of the size that its first step may have."""

    def __init__(self, name):
        adam = name in ("ag_adam", "salera_adamw")
        plain = {"weight_decay": 0.0, "nesterov": False} if adam else {"momentum": None}
        self.make = functools.partial(getattr(salera_optax, name), **plain)
        self.least, self.most = (0.0003, 0.003) if adam else (0.0001, 0.001)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("alera", "ag_adam")]


@pytest.fixture(params=["salera", "salera_adamw", *SLOW])
def maker(request):
    return Maker(request.param)


def step_lengths(tx, gradients, params=PARAMS):
    """Of each leaf the root mean square of every step; all start from the same parameters."""
    tx, state = optax.with_extra_args_support(tx), tx.init(params)
    lengths = {name: [] for name in params}
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, value=jnp.float32(1))
        for name, update in updates.items():
            lengths[name].append(float(jnp.sqrt(jnp.mean(update**2))))
    return lengths


def first_lengths(tx, gradient=ONES, params=PARAMS):
    return [each[0] for each in step_lengths(tx, [gradient], params).values()]


def test_a_first_step_that_is_small_beside_the_parameters_is_taken_as_it_is(maker):
    rate = float(np.sqrt(maker.least * maker.most)) * SIZE
    np.testing.assert_allclose(first_lengths(maker.make(rate)), rate, rtol=0.01)


@pytest.mark.parametrize(("rate", "scale"), [(1.0, 1e3), (1e9, 1e-3), (lambda step: 1.0, 1.0)])
def test_a_longer_one_has_a_share_of_the_size_of_all_parameters(maker, rate, scale):
    gradient = jax.tree.map(lambda g: scale * g, ONES)
    lengths = first_lengths(maker.make(rate), gradient)
    np.testing.assert_allclose(lengths, maker.most * SIZE, rtol=1e-4)


def test_leaves_that_share_a_rate_are_limited_together(maker):
    lengths = first_lengths(maker.make(1.0, groups="all"))
    np.testing.assert_allclose(lengths, maker.most * SIZE, rtol=1e-4)


@pytest.mark.parametrize("rate", [1e-7, 1e-25])
def test_a_shorter_one_has_a_tenth_of_that(maker, rate):
    lengths = first_lengths(maker.make(rate))
    np.testing.assert_allclose(lengths, maker.least * SIZE, rtol=1e-3)


def test_a_schedule_may_start_from_less(maker):
    warm_up = optax.warmup_constant_schedule(1e-9, 1e-3, 100)
    np.testing.assert_allclose(first_lengths(maker.make(warm_up)), 1e-9, rtol=0.1)


def test_a_rate_of_zero_stays_zero_and_parameters_of_zero_set_no_limit(maker):
    assert first_lengths(maker.make(0.0)) == [0, 0]
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    tx, state, params = maker.make(1.0), maker.make(1.0).init(zero), zero
    tx = optax.with_extra_args_support(tx)
    for _ in range(3):  # nor when they no longer are
        updates, state = tx.update(ONES, state, params, value=jnp.float32(1))
        np.testing.assert_allclose(updates["bias"], -1, rtol=0.2)
        params = optax.apply_updates(params, updates)


def test_under_the_law_of_the_paper_there_is_none(maker):
    published = maker.make(1.0, law=salera_optax.score(2e-6))
    np.testing.assert_allclose(first_lengths(published), 1, rtol=1e-4)


@pytest.mark.parametrize("name", ["alera", "ag_adam"])
def test_nor_is_there_one_without_the_parameters(name):
    tx = Maker(name).make(1.0, law=salera_optax.ratio())
    np.testing.assert_allclose(tx.update(ONES, tx.init(PARAMS))[0]["bias"], -1, rtol=1e-4)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_limits_open_with_every_step_up_to_a_share_of_the_size(maker, direction):
    def runaway(squared_norm, *_):
        return 5 * direction + 0 * squared_norm

    lengths = step_lengths(maker.make(1e-4, law=runaway), [ONES] * 100)["kernel"]
    opening = np.exp(0.06 * np.arange(100))
    low, high = maker.least / opening, np.minimum(0.12, maker.most * opening)
    np.testing.assert_allclose(lengths[1:], SIZE * (high if direction > 0 else low)[1:], rtol=1e-3)


def test_a_rate_that_jumps_is_limited_at_once(maker):
    jumping = optax.piecewise_constant_schedule(1e-5, {100: 1e9})
    lengths = step_lengths(maker.make(jumping), [ONES] * 102)["kernel"]
    np.testing.assert_allclose(lengths[100:], 0.12 * SIZE, rtol=1e-3)


def test_a_leaf_whose_gradient_comes_later_is_limited_when_it_comes():
    gradients = [ONES | {"kernel": jnp.zeros((3, 4))}] * 2 + [ONES] * 2
    maker = Maker("salera")
    for rate, share in ((1e9, maker.most * np.exp(0.12)), (1e-20, maker.least * np.exp(-0.12))):
        lengths = step_lengths(maker.make(rate), gradients)["kernel"]
        assert lengths[:2] == [0, 0]
        # Its mean square is over the three steps so far.
        assert lengths[2] == pytest.approx(np.sqrt(3) * share * SIZE, rel=1e-3)


def test_an_alarm_does_not_bring_the_limits_back():
    tx = salera_optax.salera(1e-3, momentum=None)
    params, state = PARAMS, tx.init(PARAMS)
    rates = []
    for value in [1.0] * 100 + [1e9] * 4 + [1.0] * 3:
        params, state = salera_optax.step(tx, ONES, state, params, value=value)
        rates.append(float(state.inner_state[1].log_rate["bias"]))
    assert int(state.alarms) == 1
    np.testing.assert_allclose(rates[100:], rates[99], atol=0.1)
    assert rates[99] > rates[0] + 2


@pytest.mark.parametrize("rates", [(1.0, 1e4), (1e-6, 1e-9)])
@pytest.mark.parametrize("factory", [salera_optax.salera_adamw, salera_optax.salera])
def test_far_off_the_size_of_the_parameters_it_is_the_same_run(factory, rates):
    def loss_fn(params, x):
        return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"]) - 0.3) ** 2)

    def trained(rate):
        tx = factory(rate, weight_decay=0.0)

        def one_step(carry, key):
            params, state = carry
            x = jax.random.normal(key, (8, 3))
            loss, grads = jax.value_and_grad(loss_fn)(params, x)
            return salera_optax.step(tx, grads, state, params, value=loss), None

        keys = jax.random.split(jax.random.key(0), 50)
        (params, _), _ = jax.lax.scan(one_step, (PARAMS, tx.init(PARAMS)), keys)
        return params

    one, other = map(trained, rates)
    np.testing.assert_allclose(other["kernel"], one["kernel"], rtol=1e-3)


def test_a_schedule_may_need_an_array_and_the_parameters_may_be_many(maker):
    tx = maker.make(lambda step: 0.1 / jnp.sqrt(step.astype(jnp.float32) + 1))
    assert max(first_lengths(tx)) < 0.01
    many = {"w": jax.ShapeDtypeStruct((50_000, 50_000), jnp.float32)}
    state = jax.eval_shape(tx.init, many)
    update = functools.partial(optax.with_extra_args_support(tx).update, value=1.0)
    jax.eval_shape(update, many, state, many)


def test_parameters_that_are_not_finite_do_not_reach_the_rates(maker):
    tx = optax.with_extra_args_support(maker.make(1e-4))
    state = tx.init(PARAMS)
    for bad in (jnp.nan, jnp.inf):
        params = PARAMS | {"bias": jnp.full(4, bad)}
        _, state = tx.update(ONES, state, params, value=jnp.float32(1))
        assert jnp.isfinite(optax.tree.get(state, "log_rates")).all()


def test_its_state_may_be_donated(maker):
    tx = maker.make(1.0)
    if maker.make.func in (salera_optax.alera, salera_optax.ag_adam):
        tx = salera_optax.page_hinkley(tx)
    step = jax.jit(
        lambda params, state: salera_optax.step(tx, params, state, params, value=1.0),
        donate_argnums=(0, 1),
    )
    params, state = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS)
    params, state = step(params, state)
    assert jax.tree.all(jax.tree.map(lambda p: jnp.isfinite(p).all(), params))


def test_under_jit_and_with_abstract_parameters_the_state_is_the_same(maker):
    tx = maker.make(1.0)
    state = tx.init(PARAMS)
    jitted = jax.jit(tx.init)(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, jitted, state)
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    assert jax.tree.structure(tx.init(abstract)) == jax.tree.structure(jitted)
    nothing = tx.init({})
    assert jax.tree.structure(nothing) == jax.tree.structure(jax.eval_shape(tx.init, {}))


def test_a_sharded_leaf_is_measured_as_a_whole(maker):
    kernel = jnp.arange(1.0, 5.0)
    tx = optax.with_extra_args_support(maker.make(1.0, axis_name="x"))
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")

    def first(kernel: jax.Array) -> jax.Array:
        params = {"kernel": kernel}
        return tx.update(params, tx.init(params), params, value=jnp.float32(1))[0]["kernel"]

    inside = jax.jit(jax.shard_map(first, mesh=mesh, in_specs=spec, out_specs=spec))(kernel)
    whole = optax.with_extra_args_support(maker.make(1.0))
    params = {"kernel": kernel}
    outside = whole.update(params, whole.init(params), params, value=jnp.float32(1))[0]["kernel"]
    np.testing.assert_allclose(inside, outside, rtol=1e-6)


@pytest.mark.parametrize("factory", [salera_optax.salera, salera_optax.alera])
def test_rounding_noise_is_nothing_to_make_steps_of(factory):
    """As the gradient of a bias in front of a normalization is."""
    tx = factory()
    params = {"bias": jnp.ones(3), "kernel": jnp.ones(3)}
    state, start = tx.init(params), params
    for sign in (1, -1, 1, 1):
        grads = {"bias": sign * jnp.full(3, 1e-8), "kernel": jnp.ones(3)}
        params, state = salera_optax.step(tx, grads, state, params, value=1.0)
    np.testing.assert_allclose(params["bias"], start["bias"], rtol=1e-6)
    assert (params["kernel"] < start["kernel"]).all()
