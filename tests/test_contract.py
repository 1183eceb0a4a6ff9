"""The contract: every optimizer of this package keeps every promise of Optax's own suites.

One table of cases is crossed with the properties. A case brings its factory, its arguments and
the extra arguments its update needs, so no property asks which optimizer it is looking at.
The properties are those of Optax's `_common_test.py`, `alias_test.py`, `sharding_test.py`,
`_masking_test.py`, `_accumulation_test.py` and `_inject_test.py`, and DESIGN section 4.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import salera_optax

Tree = Any


# ------------------------------------------------------------------------------ the cases


def the_loss(value: Any) -> dict[str, Any]:
    """What an optimizer that watches the loss needs besides the gradient."""
    return {"value": value}


def nothing(value: Any) -> dict[str, Any]:
    """What an optimizer that needs only the gradient is given."""
    del value
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One optimizer.

    Attributes:
      name: what pytest calls it.
      make: its factory.
      arguments: with which the factory is called.
      extra: from the loss to the extra arguments of `update`.
      static: arguments that are functions but no schedules.
      idle: numbers that do nothing beside the other arguments.
      valley: other arguments with which it comes down Rosenbrock's valley, None where it does not.
    """

    name: str
    make: Callable[..., optax.GradientTransformationExtraArgs]
    arguments: Mapping[str, Any]
    extra: Callable[[Any], dict[str, Any]] = the_loss
    static: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    valley: Mapping[str, Any] | None = None

    def build(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer, with some of its arguments changed."""
        return self.make(**{**self.arguments, **changes})

    def update(
        self, tx: Any, gradients: Tree, state: Any, params: Tree, value: Any
    ) -> tuple[Tree, Any]:
        """One update with the extra arguments that this case needs."""
        updates, new_state = tx.update(gradients, state, params, **self.extra(value))
        return updates, new_state


def by_rank(params: Tree) -> Tree:
    """Label every leaf by its number of axes: a label function as a user writes one."""
    return jax.tree.map(lambda leaf: f"rank {np.ndim(leaf)}", params)


def matrices(params: Tree) -> Tree:
    """The mask of weight decay in use everywhere: matrices decay, biases do not."""
    return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, params)


def around_momentum(
    learning_rate: Any, alpha: Any = 0.01, gain: Any = 0.01, decay: Any = 0.9, eps: Any = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """ALERA with a chain as its `base`, the part as a user composes it."""
    base = optax.chain(optax.clip_by_global_norm(1e3), optax.trace(decay))
    return optax.chain(
        salera_optax.scale_by_alera(alpha, salera_optax.ratio(gain), base=base, eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def parameterwise(
    learning_rate: Any, alpha: Any = 0.1, gain: Any = 3e-8, eps: Any = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """Parameter-wise ALERA without the guard."""
    return optax.chain(
        salera_optax.scale_by_parameterwise_alera(alpha, salera_optax.score(gain), eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def guarded_sgd(
    learning_rate: Any, smoothing: Any = 0.1, threshold: Any = 0.1, factor: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Plain gradient descent under the guard of the paper."""
    detector = salera_optax.published(smoothing, threshold)
    return salera_optax.page_hinkley(optax.sgd(learning_rate), detector, factor=factor)


def guarded_momentum(
    learning_rate: Any, momentum: Any = 0.9, factor: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Momentum under the guard."""
    return salera_optax.page_hinkley(optax.sgd(learning_rate, momentum=momentum), factor=factor)


def guarded_adam(learning_rate: Any, factor: Any = 0.5) -> optax.GradientTransformationExtraArgs:
    """A chain under the guard: a clip, then Adam."""
    return salera_optax.page_hinkley(
        optax.chain(optax.clip_by_global_norm(1e3), optax.adam(learning_rate)), factor=factor
    )


def guarded_rmsprop(learning_rate: Any, factor: Any = 0.5) -> optax.GradientTransformationExtraArgs:
    """RMSProp under the guard."""
    return salera_optax.page_hinkley(optax.rmsprop(learning_rate), factor=factor)


SGD = {"learning_rate": 0.05}
MOMENTUM = {"learning_rate": 0.01, "momentum": 0.9}
BY_MODULE = {"groups": salera_optax.by_module}
DECAY = {"weight_decay": 1e-4, "mask": matrices}
SLOWER = {"learning_rate": 1e-3}

# ALERA on the gradient has no `valley`, nor has Adam's without a guard: the rates grow all the way
# down until the steps are unstable, and what the guard brings back wanders about the minimum.
CASES = (
    Case("alera", salera_optax.alera, SGD, nothing),
    Case("alera_by_module", salera_optax.alera, {**SGD, **BY_MODULE}, nothing, ("groups",)),
    Case(
        "alera_by_label_momentum",
        salera_optax.alera,
        {**MOMENTUM, "groups": by_rank},
        nothing,
        ("groups",),
    ),
    Case("alera_one_group", salera_optax.alera, {**SGD, "groups": "all"}, nothing),
    Case("alera_nesterov", salera_optax.alera, {**MOMENTUM, "nesterov": True}, nothing),
    Case("alera_weight_decay", salera_optax.alera, {**SGD, **DECAY}, nothing, ("mask",)),
    Case("scale_by_alera", around_momentum, {"learning_rate": 0.01}, nothing),
    Case("scale_by_parameterwise_alera", parameterwise, SGD, nothing),
    Case("ag_adam", salera_optax.ag_adam, SGD, nothing),
    Case("salera", salera_optax.salera, SGD),
    Case(
        "salera_by_module_momentum_weight_decay",
        salera_optax.salera,
        {**MOMENTUM, **BY_MODULE, **DECAY},
        static=("groups", "mask"),
    ),
    Case("salera_without_rollback", salera_optax.salera, {**SGD, "rollback": False}),
    Case(
        "salera_of_the_authors",
        salera_optax.salera,
        {
            **SGD,
            "law": salera_optax.score(3e-6, std="authors"),
            "detector": salera_optax.published(),
            "reset_path": False,
        },
        static=("law", "detector"),
    ),
    Case("salera_adamw", salera_optax.salera_adamw, {"learning_rate": 0.01}, valley={}),
    Case("spalera", salera_optax.spalera, SGD, valley=SLOWER),
    Case("page_hinkley_sgd_published", guarded_sgd, SGD),
    Case("page_hinkley_momentum", guarded_momentum, MOMENTUM, valley=SLOWER),
    Case("page_hinkley_adam", guarded_adam, SGD, valley={}),
    Case("page_hinkley_rmsprop", guarded_rmsprop, {"learning_rate": 0.01}, valley=SLOWER),
)

# Another valid value of every numeric argument, far enough from the default to be seen.
ALTERNATIVES: Mapping[str, float] = {
    "learning_rate": 0.03,
    "alpha": 0.3,
    "gain": 0.05,
    "eps": 0.05,
    "momentum": 0.5,
    "decay": 0.5,
    "weight_decay": 0.1,
    "b1": 0.5,
    "b2": 0.7,
    "adam_eps": 0.1,
    "eps_root": 0.1,
    "smoothing": 0.7,
    "threshold": 1.0,
    "factor": 0.25,
}


QUICK = {
    "alera",
    "scale_by_parameterwise_alera",
    "ag_adam",
    "salera",
    "salera_adamw",
    "spalera",
    "page_hinkley_adam",
}


def every(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Cross a property with cases."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.name, marks=[] if case.name in QUICK else pytest.mark.slow)
            for case in cases
        ],
    )


every_case = every(CASES)

# ------------------------------------------------------------------------------- the data


STEPS = 16
SHORT = 6  # steps of the runs that are not compiled; the explosion and a step after are among them
FIRST_LAYER = {"Dense_0": True, "temperature": False}


def numbers(draw: Callable[[tuple[int, ...]], Any], dtype: Any = jnp.float32) -> Tree:
    """A small tree like a Flax model's, with a leaf of every small rank."""
    return {
        "Dense_0": {
            "bias": jnp.asarray(draw((2,)), dtype),
            "kernel": jnp.asarray(draw((3, 2)), dtype),
        },
        "temperature": jnp.asarray(draw(()), dtype),
    }


def parameters(dtype: Any = jnp.float32, seed: int = 0) -> Tree:
    """Parameters between 1 and 2: `p + (before - p)` is exact, so a rollback takes one call."""
    random = np.random.default_rng(seed)
    return numbers(lambda shape: random.uniform(1, 2, size=shape), dtype)


@functools.cache
def gradient_sequence(seed: int = 1) -> Tree:
    """Noisy gradients with a common direction; once they nearly vanish."""
    random = np.random.default_rng(seed)
    sequence = numbers(lambda shape: random.normal(size=(STEPS, *shape)) + 0.5)
    return jax.tree.map(lambda leaf: leaf.at[8].multiply(1e-3), sequence)


@functools.cache
def loss_sequence() -> jax.Array:
    """A healthy loss, an explosion that is certain, healthy again, then a slow divergence."""
    losses = [1.0, 0.95, 40.0, 40.0, 40.0, 0.9, 0.89, 0.88, *np.geomspace(0.9, 5.0, STEPS - 8)]
    return jnp.asarray(losses, jnp.float32)


def slice_of(sequence: Tree, step: Any) -> Tree:
    """What one step receives."""
    return jax.tree.map(lambda leaf: leaf[step], sequence)


class Trajectory(NamedTuple):
    """Everything that a run leaves behind."""

    params: Tree
    state: Any
    updates: Tree


def trajectory(
    case: Case, tx: Any, state: Any, params: Tree, gradients: Tree, losses: Any
) -> Trajectory:
    """The scan over a sequence of gradients and losses."""

    def step(carry: tuple[Tree, Any], data: tuple[Tree, Any]) -> tuple[tuple[Tree, Any], Tree]:
        params, state = carry
        gradient, loss = data
        updates, state = case.update(tx, gradient, state, params, loss)
        return (optax.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(step, (params, state), (gradients, losses))
    return Trajectory(params, state, updates)


def everything(tree: Tree) -> Tree:
    """The whole tree."""
    return tree


def run(
    case: Case, tx: Any, part: Callable[[Tree], Tree] = everything, losses: Any = None
) -> Trajectory:
    """A few steps, operation by operation: the same operations give the same bits."""
    params, gradients = part(parameters()), slice_of(part(gradient_sequence()), slice(SHORT))
    losses = loss_sequence()[:SHORT] if losses is None else losses
    with jax.disable_jit():
        return trajectory(case, tx, tx.init(params), params, gradients, losses)


@functools.cache
def short_run(case: Case) -> Trajectory:
    """The run, operation by operation, that the properties compare with."""
    return run(case, case.build())


def compiled_run(case: Case, tx: Any, scan: Any = None) -> Trajectory:
    """The whole run, compiled."""
    params = parameters()
    scan = scan or jax.jit(functools.partial(trajectory, case, tx))
    final: Trajectory = scan(tx.init(params), params, gradient_sequence(), loss_sequence())
    return final


@functools.cache
def scan_of(case: Case) -> Any:
    """The compiled scan of the optimizer."""
    return jax.jit(functools.partial(trajectory, case, case.build()))


@functools.cache
def long_run(case: Case) -> Trajectory:
    """The whole compiled run that the properties compare with."""
    return compiled_run(case, case.build(), scan_of(case))


def structure(tree: Tree) -> Any:
    """The containers of a tree."""
    return jax.tree.structure(tree)


def described(tree: Tree) -> Tree:
    """Shapes and dtypes instead of arrays."""
    abstract: Any = jax.ShapeDtypeStruct
    return jax.tree.map(lambda leaf: abstract(leaf.shape, leaf.dtype), tree)


def avals(tree: Tree) -> list[Any]:
    """Shape, dtype and weak type of every leaf."""
    return [
        (leaf.shape, leaf.dtype, leaf.weak_type)
        for leaf in jax.tree.leaves(jax.eval_shape(lambda: tree))
    ]


def assert_same_avals(actual: Tree, expected: Tree) -> None:
    assert structure(actual) == structure(expected)
    places = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(expected)]
    for place, one, other in zip(places, avals(actual), avals(expected), strict=True):
        assert one == other, place


def assert_equal(actual: Tree, expected: Tree) -> None:
    assert structure(actual) == structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual: Tree, expected: Tree, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert structure(actual) == structure(expected)
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, actual, expected)


def assert_finite(tree: Tree) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        place = jax.tree_util.keystr(path)
        assert not leaf.is_deleted(), place
        assert np.all(np.isfinite(np.asarray(leaf))), place


# ------------------------------------------------------------------------------ the runs


@every([case for case in CASES if case.extra is the_loss])
def test_the_runs_of_this_suite_hold_an_alarm_and_go_on_after_it(case: Case) -> None:
    for run in (short_run(case), long_run(case)):
        guard = run.state
        assert isinstance(guard, salera_optax.PageHinkleyState)
        assert int(guard.alarms) >= 1
        assert float(guard.scale) < 1
        assert int(guard.holds) < int(guard.step) - 2
    moves = short_run(case).updates["Dense_0"]["kernel"]
    rows = salera_optax.events(short_run(case).state)
    (alarm,) = [row["step"] for row in rows if row["alarm"]]
    moved_back = np.any(moves[alarm] != 0)
    assert moved_back == (guard.snapshot is not None)
    before = -moves[:alarm][np.any(moves[:alarm] != 0, axis=(1, 2))][-1]
    if moved_back:  # the last step is taken back
        np.testing.assert_allclose(moves[alarm], before, rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------- calling conventions


@every_case
def test_unknown_extra_arguments_are_ignored(case: Case) -> None:
    tx = case.build()
    unknown = {"unknown_number": 1, "unknown_text": "text", "unknown_tree": parameters()}
    curious = optax.GradientTransformationExtraArgs(
        tx.init, functools.partial(tx.update, **unknown)
    )
    assert_equal(run(case, curious), short_run(case))


@every_case
def test_state_is_a_tree_of_arrays_and_nothing_else(case: Case) -> None:
    init = case.build().init
    for state in (init(parameters()), jax.jit(init)(parameters()), short_run(case).state):
        for path, leaf in jax.tree.leaves_with_path(state):
            assert isinstance(leaf, jax.Array), jax.tree_util.keystr(path)
        assert_same_avals(state, init(parameters()))


@every_case
def test_update_leaves_its_inputs_as_they_were(case: Case) -> None:
    tx = case.build()
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    inputs: Any = (gradients, tx.init(params), params)
    frozen: Any = jax.tree.map(np.array, inputs)
    jax.tree.map(lambda leaf: leaf.setflags(write=False), frozen)
    with jax.disable_jit():
        from_numpy = case.update(tx, frozen[0], frozen[1], frozen[2], np.float32(1.0))
        from_jax = case.update(tx, inputs[0], inputs[1], inputs[2], jnp.float32(1.0))
    assert_equal(inputs, frozen)
    assert_close(from_numpy, from_jax)


@every_case
def test_the_same_run_twice_gives_the_same_bits(case: Case) -> None:
    assert_equal(compiled_run(case, case.build(), scan_of(case)), long_run(case))


@every_case
def test_donated_training_loop_compiles_once_also_after_a_round_trip(case: Case) -> None:
    tx = case.build()

    def train(params: Tree, state: Any, gradients: Tree, loss: Any) -> tuple[Tree, Any]:
        updates, state = case.update(tx, gradients, state, params, loss)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(train, donate_argnums=(0, 1))
    params = parameters()
    state = tx.init(params)
    for step in range(STEPS):
        donated = params
        gradients = slice_of(gradient_sequence(), step)
        params, state = compiled(params, state, gradients, loss_sequence()[step])
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
        if step == STEPS // 2:
            params, state = jax.device_put(jax.tree.map(np.array, (params, state)))
    assert compiled._cache_size() == 1
    assert_close(params, long_run(case).params)


@every_case
def test_results_outlive_the_buffers_of_the_parameters(case: Case) -> None:
    tx = case.build()
    for init in (tx.init, jax.jit(tx.init)):
        params = parameters()
        state = init(params)
        jax.tree.map(lambda leaf: leaf.delete(), params)
        assert_finite(state)
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    with jax.disable_jit():
        results = case.update(tx, gradients, state, params, 1.0)
    jax.tree.map(lambda leaf: leaf.delete(), (params, gradients))
    assert_finite(results)


@every_case
def test_init_works_on_abstract_parameters_and_under_jit(case: Case) -> None:
    tx = case.build()
    params = parameters()
    expected = tx.init(params)
    assert_same_avals(jax.eval_shape(tx.init, params), expected)
    assert_same_avals(jax.eval_shape(tx.init, described(params)), expected)
    assert_close(jax.jit(tx.init)(params), expected, rtol=1e-6, atol=0)


@every_case
def test_init_takes_descriptions_of_the_parameters_for_the_parameters(case: Case) -> None:
    tx = case.build()
    assert_same_avals(tx.init(described(parameters())), tx.init(parameters()))


# ----------------------------------------------------------------- dtypes, shapes, avals


DTYPES: Mapping[str, tuple[Any, ...]] = {
    "float16": (jnp.float16,),
    "bfloat16": (jnp.bfloat16,),
    "complex64": (jnp.complex64,),
    "float64": (jnp.float64,),
    "complex128": (jnp.complex128,),
    "mixed": (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64, jnp.complex64),
}
STATISTICS = (
    "path",
    "log_rate",
    "lengths",
    "numbers",  # the scalars of the guard and of its robust detector
    "reference",
    "smoothed",
    "average",
    "statistic",
    "threshold",
    "values",
    "leaf_norms",
)


@pytest.fixture(params=list(DTYPES))
def dtypes(request: pytest.FixtureRequest) -> Iterator[tuple[Any, ...]]:
    """Dtypes for the leaves of a tree, with 64 bits where they need it."""
    wide = {np.dtype("float64"), np.dtype("complex128")}
    chosen = DTYPES[request.param]
    with jax.enable_x64(any(np.dtype(dtype) in wide for dtype in chosen)):
        yield chosen


def statistics(state: Any) -> list[Tree]:
    """The numbers of this package in a state, those of Optax left out."""
    return [found for name in STATISTICS for _, found in optax.tree.get_all_with_path(state, name)]


@every_case
def test_updates_have_the_dtype_of_the_parameters_and_statistics_are_wide(
    case: Case, dtypes: tuple[Any, ...]
) -> None:
    tx = case.build()
    params = {f"leaf_{index}": jnp.ones((2, 2), dtype) for index, dtype in enumerate(dtypes)}
    state = tx.init(params)

    def update(gradients: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        return case.update(tx, gradients, state, params, params["leaf_0"][0, 0].real)

    updates, new_state = jax.eval_shape(update, params, state, params)
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)
    for leaf in jax.tree.leaves(statistics(state)):
        assert leaf.dtype.itemsize >= (8 if jnp.iscomplexobj(leaf) else 4)


@pytest.mark.parametrize(
    "tx",
    [
        salera_optax.salera(0.5, momentum=0.9, weight_decay=0.1),
        salera_optax.spalera(0.5),
        salera_optax.salera_adamw(0.5),
        salera_optax.page_hinkley(optax.adam(0.5)),
    ],
    ids=["salera", "spalera", "salera_adamw", "adam"],
)
def test_float8_beside_float32_is_trained_and_comes_back_at_an_alarm(tx: Any) -> None:
    kinds = (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float32)
    params = {np.dtype(kind).name: jnp.array([1.0, -2.0], kind) for kind in kinds}
    state = tx.init(params)
    step = jax.jit(
        lambda params, state, value: salera_optax.step(tx, g, state, params, value=value)
    )
    g = params
    trained, after = step(params, state, 1.0)
    assert_same_avals((trained, after), (params, state))
    before, moved = params, False
    for _ in range(400):  # the first steps of salera_adamw are too small for 8 bits to show
        moved = all((trained[name] != leaf).all() for name, leaf in params.items())
        if moved:
            break
        before = trained
        trained, after = step(trained, after, 1.0)
    assert moved
    for value in (1e9, 1e9, 1e9):
        trained, after = step(trained, after, value)
    assert after.alarm
    assert_equal(trained, before)


@every_case
@pytest.mark.parametrize(
    ("own", "incoming"),
    [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16), (jnp.float16, jnp.bfloat16)],
    ids=["float32_for_bfloat16", "bfloat16_for_float32", "bfloat16_for_float16"],
)
def test_gradients_of_another_dtype_change_neither_the_parameters_nor_the_statistics(
    case: Case, own: Any, incoming: Any
) -> None:
    tx = case.build()
    params = parameters(own)
    state = tx.init(params)

    def step(state: Any, params: Tree, gradients: Tree) -> tuple[Tree, Any]:
        updates, new_state = case.update(tx, gradients, state, params, jnp.float32(1.0))
        return optax.apply_updates(params, updates), new_state

    new_params, new_state = jax.eval_shape(step, state, params, parameters(incoming))
    assert_same_avals(new_params, params)
    assert_same_avals(statistics(new_state), statistics(state))


LOSSES: Mapping[str, Callable[[], Any]] = {
    "python_float": lambda: 2.0,
    "python_int": lambda: 2,
    "numpy_float64": lambda: np.float64(2.0),
    "numpy_float16_array": lambda: np.asarray(2.0, np.float16),
    "int32": lambda: jnp.int32(2),
    "float64": lambda: jnp.asarray(2.0, float),
    "bfloat16": lambda: jnp.bfloat16(2.0),
    "weak_float": lambda: jnp.asarray(2.0),
}


@every_case
def test_state_is_stable_through_cond_and_scan_whatever_the_kind_of_the_loss(case: Case) -> None:
    tx = case.build()
    params = parameters(jnp.bfloat16)
    state = tx.init(params)

    def through_both(params: Tree, state: Any, loss: Any) -> tuple[Tree, Any]:
        def step(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], None]:
            params, state = carry
            updates, state = jax.lax.cond(
                params["temperature"] > 0,
                lambda: case.update(tx, params, state, params, loss),
                lambda: (params, state),
            )
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=3)[0]

    with jax.enable_x64(True):  # Else a loss in 64 bits would be cut before it comes here.
        for make in LOSSES.values():
            call = functools.partial(through_both, loss=make())
            new_params, new_state = jax.eval_shape(call, params, state)
            assert_same_avals(new_params, params)
            assert_same_avals(new_state, state)


@every_case
def test_the_loss_is_the_same_number_in_every_dtype(case: Case) -> None:
    tx = case.build()
    params, gradients = parameters(), slice_of(gradient_sequence(), 0)
    state = tx.init(params)
    with jax.disable_jit():
        expected = case.update(tx, gradients, state, params, jnp.float32(2.0))
        for make in LOSSES.values():
            assert_equal(case.update(tx, gradients, state, params, make()), expected)


@every_case
@pytest.mark.parametrize("empty", [{}, (), [], {"block": {}}], ids=repr)
def test_empty_tree_is_updated_to_an_empty_tree(case: Case, empty: Tree) -> None:
    tx = case.build()
    state = tx.init(empty)
    updates, new_state = jax.eval_shape(
        lambda state: case.update(tx, empty, state, empty, jnp.float32(1.0)), state
    )
    assert updates == empty
    assert_same_avals(new_state, state)


@every_case
def test_scalar_zero_size_and_absent_leaves_get_finite_updates(case: Case) -> None:
    tx = case.build()
    params = {
        "scalar": jnp.float32(1.0),
        "nothing": jnp.zeros((0,)),
        "no_rows": jnp.zeros((0, 3)),
        "row": jnp.ones((1, 3)),
        "absent": None,
    }
    gradients = jax.tree.map(lambda leaf: leaf + 0.5, params)
    state = tx.init(params)
    with jax.disable_jit():
        for _ in range(3):
            updates, state = case.update(tx, gradients, state, params, 1.0)
            assert_finite((updates, state))
            assert_same_avals(updates, params)
    assert float(updates["scalar"]) < 0.0


@every_case
def test_bare_array_is_a_tree_too(case: Case) -> None:
    tx = case.build()
    params = jnp.ones((2,))
    state = tx.init(params)
    updates, new_state = jax.eval_shape(
        functools.partial(case.update, tx), params, state, params, 1.0
    )
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)


@every_case
def test_zero_gradients_at_zero_move_nothing(case: Case) -> None:
    tx = case.build()
    zeros = jax.tree.map(jnp.zeros_like, parameters())
    state = tx.init(zeros)
    with jax.disable_jit():
        for loss in (1.0, 1.0, 50.0, 1.0):
            updates, state = case.update(tx, zeros, state, zeros, loss)
            assert_equal(updates, zeros)
            assert_finite(state)


# ------------------------------------------------------------------------------ convergence


class Target(NamedTuple):
    """A function to minimize, where to start, and where its minimum is."""

    start: Tree
    minimum: Tree
    loss: Callable[[Tree], jax.Array]


def parabolas() -> Target:
    """Optax's parabola, matrix parabola and mixed tensor target, real and complex, in one tree."""
    real = {
        "vector": jnp.asarray([1.0, -1.0, 1.0]),
        "matrix": jnp.asarray([[3.0, -2.0], [1.0, 4.0]]),
        "mixed": (jnp.asarray([1.0, -1.0, 2.0]), jnp.asarray([[1.0, 0.0], [-1.0, 1.0]])),
    }
    minimum = {"real": real, "complex": jax.tree.map(lambda leaf: leaf * (1 + 1j), real)}
    start = jax.tree.map(jnp.zeros_like, minimum)
    for part in start.values():
        part["vector"] = jnp.asarray([-1.0, 10.0, 1.0], part["vector"].dtype)

    def loss(params: Tree) -> jax.Array:
        return optax.tree.norm(optax.tree.sub(params, minimum), squared=True)

    return Target(start, minimum, loss)


def valleys() -> Target:
    """Rosenbrock's function, real and complex."""

    def squared(number: jax.Array) -> jax.Array:
        return (number * number.conj()).real

    def rosenbrock(point: jax.Array, a: complex) -> jax.Array:
        return squared(a - point[0]) + 100.0 * squared(point[1] - point[0] ** 2)

    def loss(params: Tree) -> jax.Array:
        return rosenbrock(params["real"], 1.0) + rosenbrock(params["complex"], 1 + 1j)

    minimum = {"real": jnp.asarray([1.0, 1.0]), "complex": jnp.asarray([1 + 1j, 2j])}
    return Target(jax.tree.map(jnp.zeros_like, minimum), minimum, loss)


def minimize(case: Case, tx: Any, target: Target, steps: int) -> None:
    """Run down to the minimum and compare within Optax's tolerance."""

    def descend(params: Tree, state: Any) -> tuple[Tree, Any]:
        def step(carry: tuple[Tree, Any], _: None) -> tuple[tuple[Tree, Any], None]:
            params, state = carry
            loss, gradients = jax.value_and_grad(target.loss)(params)
            gradients = optax.tree.conj(gradients)
            updates, state = case.update(tx, gradients, state, params, loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=steps)[0]

    params, _ = jax.jit(descend)(target.start, tx.init(target.start))
    assert_close(params, target.minimum, rtol=3e-2, atol=3e-2)


@pytest.mark.slow
@every_case
def test_parabolas_are_minimized(case: Case) -> None:
    minimize(case, case.build(), parabolas(), steps=2000)


@pytest.mark.slow
@every([case for case in CASES if case.valley is not None])
def test_rosenbrock_valleys_are_minimized(case: Case) -> None:
    minimize(case, case.build(**(case.valley or {})), valleys(), steps=20_000)


# -------------------------------------------------------------------------- hyperparameters


@functools.cache
def injected(case: Case) -> tuple[Any, Any]:
    """The optimizer under `inject_hyperparams`, and its compiled run."""
    tx = optax.inject_hyperparams(case.make, static_args=case.static)(**case.arguments)
    return tx, jax.jit(functools.partial(trajectory, case, tx))


def injected_run(case: Case, **changes: float) -> Trajectory:
    """Run with some hyperparameters overwritten in the state."""
    tx, scan = injected(case)
    params = parameters()
    state = tx.init(params)
    numbers = {
        name: jnp.asarray(changes.get(name, number), number.dtype)
        for name, number in state.hyperparams.items()
    }
    final: Trajectory = scan(
        state._replace(hyperparams=numbers), params, gradient_sequence(), loss_sequence()
    )
    return final._replace(state=final.state.inner_state)


def injected_numbers(case: Case) -> list[str]:
    """The numeric arguments, as `inject_hyperparams` sees them."""
    return sorted(jax.eval_shape(injected(case)[0].init, parameters()).hyperparams)


@every_case
def test_injected_hyperparameters_change_nothing(case: Case) -> None:
    assert_close(injected_run(case), long_run(case), rtol=1e-4, atol=1e-5)


@every_case
def test_every_number_among_the_arguments_is_injected(case: Case) -> None:
    defaults = inspect.signature(case.make).parameters.values()
    given = {default.name: default.default for default in defaults} | dict(case.arguments)
    numeric = [name for name, value in given.items() if type(value) in (int, float)]
    assert injected_numbers(case) == sorted(numeric)


def visible(run: Trajectory) -> Tree:
    """Where a hyperparameter can show."""
    return run.updates, statistics(run.state)


@every_case
def test_every_hyperparameter_takes_effect_when_changed_in_the_state(case: Case) -> None:
    unchanged = jax.tree.leaves(visible(injected_run(case)))
    without_effect = []
    for name in set(injected_numbers(case)) - set(case.idle):
        changed = injected_run(case, **{name: ALTERNATIVES[name]})
        leaves = zip(jax.tree.leaves(visible(changed)), unchanged, strict=True)
        if all(np.array_equal(one, other) for one, other in leaves):
            without_effect.append(name)
    assert without_effect == []


@every_case
def test_hyperparameters_changed_in_the_state_act_like_those_given_to_the_factory(
    case: Case,
) -> None:
    changes = {name: ALTERNATIVES[name] for name in injected_numbers(case)}
    if case.name == "salera_adamw":  # where it starts, init has settled by the learning rate
        del changes["learning_rate"]
    expected = compiled_run(case, case.build(**changes))
    assert_close(injected_run(case, **changes), expected, rtol=1e-4, atol=1e-5)


@every_case
def test_hyperparameters_injected_in_bfloat16_keep_the_avals_of_the_state(case: Case) -> None:
    tx, scan = injected(case)
    params = parameters(jnp.bfloat16)
    state = tx.init(params)
    assert {number.dtype for number in state.hyperparams.values()} == {jnp.dtype("bfloat16")}
    gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), gradient_sequence())
    final = jax.eval_shape(scan, state, params, gradients, loss_sequence())
    assert_same_avals(final.state, state)
    assert_same_avals(final.params, params)


@every_case
def test_hyperparameters_injected_in_bfloat16_are_only_rounded(case: Case) -> None:
    tx, _ = injected(case)
    params = parameters(jnp.bfloat16)
    state = tx.init(params)
    rounded = case.build(**{name: float(value) for name, value in state.hyperparams.items()})
    expected = rounded.init(params)
    with jax.disable_jit():
        for step in range(3):
            gradients = slice_of(gradient_sequence(), step)
            loss = loss_sequence()[step]
            _, state = case.update(tx, gradients, state, params, loss)
            _, expected = case.update(rounded, gradients, expected, params, loss)
    assert_close(statistics(state.inner_state), statistics(expected), rtol=1e-4)


@every_case
def test_constant_schedule_is_the_same_as_its_constant(case: Case) -> None:
    schedule = optax.constant_schedule(case.arguments["learning_rate"])
    actual = run(case, case.build(learning_rate=schedule))
    assert_equal(actual.updates, short_run(case).updates)


@every_case
def test_schedule_that_falls_to_zero_stops_the_motion(case: Case) -> None:
    schedule = optax.piecewise_constant_schedule(case.arguments["learning_rate"], {2: 0.0})
    # At a healthy loss: a call that a guard holds is no step of the schedule.
    updates = run(case, case.build(learning_rate=schedule), losses=jnp.ones(SHORT)).updates
    assert all(np.all(leaf[:2] != 0) for leaf in jax.tree.leaves(updates))
    assert all(np.all(leaf[2:] == 0) for leaf in jax.tree.leaves(updates))


def test_rate_set_from_the_host_survives_an_alarm() -> None:
    injected = optax.inject_hyperparams(optax.sgd)(0.1)
    for tx in (
        salera_optax.page_hinkley(injected),
        optax.chain(salera_optax.page_hinkley(injected), optax.identity()),
    ):
        params = {"w": jnp.ones(2)}
        step = jax.jit(functools.partial(salera_optax.step, tx))
        state = tx.init(params)
        for _ in range(20):
            params, state = step(params, state, params, value=1.0)
        state = optax.tree.set(state, learning_rate=jnp.float32(0.01))
        for _ in range(2):  # the snapshot is of a step at that rate
            before, (params, state) = params, step(params, state, params, value=1.0)
        for _ in range(3):
            back, state = step(params, state, params, value=1e9)
        assert int(salera_optax.metrics(state)["alarms"]) == 1
        np.testing.assert_array_equal(back["w"], before["w"])
        assert float(optax.tree.get(state, "learning_rate")) == np.float32(0.01)
        after, state = step(back, state, back, value=1.0)
        np.testing.assert_allclose(after["w"], (1 - 0.5 * 0.01) * back["w"], rtol=1e-6)


# ----------------------------------------------------------------- inside other optimizers


def first_layer(tree: Tree) -> Tree:
    """The part of a tree that the mask leaves to the optimizer."""
    return {"Dense_0": tree["Dense_0"]}


@functools.cache
def first_layer_run(case: Case) -> Trajectory:
    """The run of the optimizer on the first layer alone."""
    return run(case, case.build(), first_layer)


@every_case
def test_masked_optimizer_sees_only_its_leaves(case: Case) -> None:
    actual = run(case, optax.masked(case.build(), FIRST_LAYER))
    assert_equal(first_layer(actual.updates), first_layer_run(case).updates)
    assert_equal(actual.updates["temperature"], gradient_sequence()["temperature"][:SHORT])


@every_case
def test_partitioned_optimizer_sees_only_its_leaves(case: Case) -> None:
    transforms: dict[Any, Any] = {"ours": case.build(), "theirs": optax.sgd(0.5)}
    actual = run(case, optax.partition(transforms, {"Dense_0": "ours", "temperature": "theirs"}))
    assert_equal(first_layer(actual.updates), first_layer_run(case).updates)
    assert_close(actual.updates["temperature"], -0.5 * gradient_sequence()["temperature"][:SHORT])


@every_case
def test_chains_around_pass_everything_on(case: Case) -> None:
    inner = optax.chain(optax.identity(), case.build())
    tx = optax.named_chain(("clip", optax.clip_by_global_norm(1e3)), ("inner", inner))
    assert_equal(run(case, tx).updates, short_run(case).updates)


@every_case
def test_multi_steps_hands_over_the_mean_gradient(case: Case) -> None:
    multi = optax.MultiSteps(case.build(), every_k_schedule=2)
    # Every gradient twice: its mean is itself, and the loss counts when the step is taken.
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf[:SHORT], 2, axis=0), gradient_sequence())
    losses = jnp.repeat(loss_sequence()[:SHORT], 2)
    params = parameters()
    with jax.disable_jit():
        updates = trajectory(case, multi, multi.init(params), params, twice, losses).updates
    assert not any(np.any(leaf[::2]) for leaf in jax.tree.leaves(updates))
    assert_close(slice_of(updates, slice(1, None, 2)), short_run(case).updates)


@every_case
def test_multi_steps_keeps_every_dtype(case: Case) -> None:
    multi = optax.MultiSteps(case.build(), every_k_schedule=4)
    params = parameters(jnp.bfloat16)
    state = multi.init(params)
    updates, new_state = jax.eval_shape(
        functools.partial(case.update, multi), params, state, params, jnp.bfloat16(1.0)
    )
    assert_same_avals(updates, params)
    assert_same_avals(new_state, state)


@pytest.mark.slow
@every_case
def test_vmap_over_members_equals_one_by_one(case: Case) -> None:
    tx = case.build()
    another = parameters(seed=2)
    data = (another, gradient_sequence(2), jnp.linspace(3.0, 1.0, STEPS))
    members = [(parameters(), gradient_sequence(), loss_sequence()), data]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(functools.partial(trajectory, case, tx)))(
        jax.vmap(tx.init)(stacked[0]), *stacked
    )
    assert_close(slice_of(together, 0), long_run(case))
    assert_close(slice_of(together, 1), scan_of(case)(tx.init(another), *data))


# -------------------------------------------------------------------- tools of Optax and JAX


def test_tree_get_finds_the_one_count_of_a_guarded_adam() -> None:
    tx = salera_optax.page_hinkley(optax.adam(0.1))
    params = parameters()
    state = tx.init(params)
    for loss in (1.0, np.nan, 1.0, 1.0):
        params, state = salera_optax.step(tx, params, state, params, value=loss)
    assert int(optax.tree_utils.tree_get(state, "count")) == 3  # a held call is no step
    assert len(optax.tree.get_all_with_path(state, "count")) == 1
    for name in ("mu", "nu"):
        assert structure(optax.tree.get(state, name)) == structure(params)


@every_case
def test_tree_map_params_finds_the_trees_like_the_parameters_in_the_state(case: Case) -> None:
    tx = case.build()
    params = parameters()
    state = tx.init(params)
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)
    assert_equal(optax.tree.map_params(tx.init, lambda leaf: leaf, state), state)

    specs = jax.tree.map(lambda leaf: f"spec of rank {leaf.ndim}", params)
    mapped = optax.tree.map_params(
        tx,
        lambda leaf, spec: f"rank {leaf.ndim}, {spec}",
        state,
        specs,
        transform_non_params=lambda _: "no parameter",
    )
    found = [leaf for leaf in jax.tree.leaves(mapped) if leaf != "no parameter"]
    expected = [f"rank {leaf.ndim}, spec of rank {leaf.ndim}" for leaf in jax.tree.leaves(params)]
    assert found == expected * (len(found) // len(expected))
    assert found


@every_case
def test_tree_map_params_works_on_a_masked_state(case: Case) -> None:
    tx = optax.masked(case.build(), FIRST_LAYER)
    state = tx.init(parameters())
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


@every_case
def test_sharding_of_the_state_is_the_same_after_init_and_after_update(case: Case) -> None:
    tx = case.build()
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec: Any = jax.sharding.PartitionSpec
    sharding = jax.sharding.NamedSharding(mesh, spec(None, "x"))
    with jax.sharding.set_mesh(mesh):
        params = jnp.zeros((2, 8 * len(devices)), jnp.float16, out_sharding=sharding)
        state = tx.init(params)
        types = jax.tree.map(jax.typeof, state)
        assert jax.tree.map(jax.typeof, jax.jit(tx.init)(params)) == types
        for update in (tx.update, jax.jit(tx.update)):
            updates, new_state = update(params, state, params, **case.extra(jnp.float32(1.0)))
            assert jax.typeof(updates) == jax.typeof(params)
            assert jax.tree.map(jax.typeof, new_state) == types


# ---------------------------------------------------------------------- labels given as a tree


LABELS = {"Dense_0": "layer", "temperature": "rest"}


def test_labels_given_as_a_tree_are_the_same_as_from_a_function() -> None:
    case = Case("labels", salera_optax.salera, {**SGD, "groups": LABELS})
    assert_equal(run(case, case.build()), run(case, case.build(groups=lambda _: LABELS)))


def test_labels_given_as_a_tree_work_under_a_mask_and_in_a_partition() -> None:
    case = Case("labels", salera_optax.salera, {**SGD, "groups": LABELS})
    alone = run(case, case.build(groups={"Dense_0": "layer"}), first_layer)
    masked = run(case, optax.masked(case.build(), FIRST_LAYER))
    assert_equal(first_layer(masked.updates), alone.updates)
    transforms: dict[Any, Any] = {"ours": case.build(), "theirs": optax.sgd(0.5)}
    shared = run(case, optax.partition(transforms, {"Dense_0": "ours", "temperature": "theirs"}))
    assert_equal(first_layer(shared.updates), alone.updates)


@pytest.mark.parametrize(
    "groups", [LABELS, "all", lambda _: LABELS], ids=["tree", "all", "function"]
)
def test_tree_map_params_works_whatever_the_labels(groups: Any) -> None:
    tx = salera_optax.salera(0.1, groups=groups)
    state = tx.init(parameters())
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


# -------------------------------------------------------------- the guard around all of Optax


INNERS: Mapping[str, Callable[[], Any]] = {
    "adabelief": lambda: optax.adabelief(0.1),
    "adadelta": lambda: optax.adadelta(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "adagrad": lambda: optax.adagrad(0.1),
    "adamw": lambda: optax.adamw(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "lars": lambda: optax.lars(0.1),
    "lbfgs": lambda: optax.lbfgs(0.1, linesearch=None),
    "lion": lambda: optax.lion(0.1),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=0),
    "novograd": lambda: optax.novograd(0.1),
    "polyak_sgd": optax.polyak_sgd,
    "rmsprop_centered": lambda: optax.rmsprop(0.1, centered=True, momentum=0.9),
    "yogi": lambda: optax.yogi(0.1),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 5),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "masked": lambda: optax.masked(optax.adam(0.1), FIRST_LAYER),
    "dog": lambda: optax.contrib.dog(1.0),
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(1.0)),
    "muon": lambda: optax.contrib.muon(0.1),
    "prodigy": lambda: optax.contrib.prodigy(0.1),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", INNERS.values(), ids=INNERS.keys())
def test_every_optimizer_of_optax_can_be_guarded(make: Callable[[], Any], dtype: Any) -> None:
    tx = salera_optax.page_hinkley(make())
    params = parameters(dtype)
    state = tx.init(params)
    assert_same_avals(jax.eval_shape(tx.init, params), state)
    updates, new_state = jax.eval_shape(
        functools.partial(tx.update, value=jnp.float32(1.0)), params, state, params
    )
    assert_same_avals(updates, params)
    assert structure(new_state) == structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(new_state)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]
