"""The compiled steps: few different kernels, conditionals, and no copy but the snapshot."""

import os
import re

import jax
import jax.extend
import jax.numpy as jnp
import optax
import pytest

import salera_optax

# conftest.py has the suite compiled by another emitter, which copies where the usual one does not.
FASTER = "fusion_emitters" in os.environ["XLA_FLAGS"]
AS_USERS_DO = {"xla_cpu_use_fusion_emitters": True} if FASTER else {}


def copies(compiled, shape):
    """The copies of an array in a program, but those in a branch that only returns its operands."""
    found = []
    for computation in compiled.as_text().split("\n}\n"):
        operations = set(re.findall(r" = \S+ ([a-z-]+)\(", computation))
        if not operations <= {"parameter", "get-tuple-element", "copy", "tuple"}:
            # But for zeros, with which an alarm overwrites a path.
            found += re.findall(
                rf".*{re.escape(shape)}\S* copy\((?!%wrapped_broadcast).*", computation
            )
    return found


def conditionals(jaxpr, shape):
    """The conditionals of a program, however deep, that return an array of this shape."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond" and any(
            v.aval.shape == shape for v in equation.outvars
        ):
            found.append(equation)
            continue
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            found += conditionals(sub, shape)
    return found


@pytest.mark.parametrize(("apply", "expected"), [("step", 4), ("update", 3)])
def test_conditionals_choose_between_stepping_and_rolling_back_on_every_backend(apply, expected):
    tx = salera_optax.page_hinkley(optax.adam(1e-3))
    params = jnp.ones(17)

    def train(params, state, grads):
        if apply == "step":
            return salera_optax.step(tx, grads, state, params, value=1.0)
        return tx.update(grads, state, params, value=1.0)

    state = tx.init(params)
    found = conditionals(jax.make_jaxpr(train)(params, state, params).jaxpr, (17,))
    # To forget Adam's moments; to take a step; and to mend what it gives, which for an update is
    # also to go back. A step that writes the parameters has gone back before, in place.
    assert len(found) == expected
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(train), platforms=[platform])(params, state, params)
        text = exported.mlir_module()
        assert "stablehlo.case" in text or "stablehlo.if" in text


def test_the_common_path_of_the_compiled_step_copies_no_parameter():
    size = 1 << 16
    tx = salera_optax.page_hinkley(optax.adam(1e-3))

    def train(params, state, batch):
        loss, grads = jax.value_and_grad(lambda p: jnp.sum((p - batch) ** 2))(params)
        return salera_optax.step(tx, grads, state, params, value=loss)

    params = jnp.ones(size)
    lowered = jax.jit(train, donate_argnums=(0, 1)).lower(params, tx.init(params), params)
    compiled = lowered.compile(AS_USERS_DO)
    assert not copies(compiled, f"f32[{size}]")


@pytest.mark.parametrize("apply", ["step", "update"])
@pytest.mark.parametrize(
    ("tx", "plain", "copies_more"),
    [
        (salera_optax.ag_adam(), optax.adam(0.1), 1),
        (salera_optax.salera(), salera_optax.alera(), 1),
        (salera_optax.salera_adamw(), salera_optax.ag_adam(), 1),
        (salera_optax.page_hinkley(optax.adam(0.1)), optax.adam(0.1), 1),
        (salera_optax.page_hinkley(optax.adam(0.1), rollback=False), optax.adam(0.1), 0),
    ],
    ids=["ag_adam", "salera", "salera_adamw", "adam", "adam, no rollback"],
)
def test_a_step_copies_nothing_and_needs_no_more_temporary_memory(tx, plain, copies_more, apply):
    params = {name: jnp.ones((500, 300)) for name in "ab"}  # no multiples of 32
    unit = 2 * 500 * 300 * 4

    def compiled(tx):
        def train(params, state, batch):
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((jnp.tanh(batch @ p["a"]) @ p["b"].T - batch) ** 2)
            )(params)
            if apply == "step":
                return salera_optax.step(tx, grads, state, params, value=loss)
            update = optax.with_extra_args_support(tx).update
            updates, state = update(grads, state, params, value=loss)
            return optax.apply_updates(params, updates), state

        arguments = params, tx.init(params), jnp.ones((4, 500))
        return jax.jit(train, donate_argnums=(0, 1)).lower(*arguments).compile(AS_USERS_DO)

    def numbers(tx):
        return sum(leaf.size for leaf in jax.tree.leaves(tx.init(params)))

    step = compiled(tx)
    memory = step.memory_analysis()
    assert not copies(step, "f32[500,300]")
    assert memory.alias_size_in_bytes > memory.output_size_in_bytes - 1000  # all in place
    extra = memory.temp_size_in_bytes - compiled(plain).memory_analysis().temp_size_in_bytes
    assert extra <= 0.05 * unit
    assert 4 * (numbers(tx) - numbers(plain)) == pytest.approx(
        copies_more * unit, rel=0.01, abs=2000
    )


def compiled_update(tx, params):
    def train(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(train, donate_argnums=(0, 1)).lower(params, tx.init(params))
    return lowered.compile(AS_USERS_DO).as_text()


def kernels(text):
    """The different bodies of the fused loops: XLA compiles equal ones once."""
    bodies = re.findall(r"^%?fused_computation\S* (\(.*?\n)}", text, re.MULTILINE | re.DOTALL)
    bodies = [re.sub(r", (metadata|backend_config)=.*", "", body) for body in bodies]
    found = set()
    for body in bodies:
        names = {}
        plain = re.sub(r"param_[\w.]+:|to_apply=\S+|/\*index=\d+\*/", "", body)
        found.add(re.sub(r"%[\w.-]+", lambda m, n=names: str(n.setdefault(m[0], len(n))), plain))
    return found


def test_leaves_of_one_shape_share_their_kernels():
    tx = salera_optax.alera()
    few, many = (
        len(kernels(compiled_update(tx, {f"w{i}": jnp.ones((5, 7)) for i in range(count)})))
        for count in (20, 60)
    )
    assert few > 5
    assert many <= few + 5, "as many kernels, but for the lengths of the vectors"


@pytest.mark.parametrize("shape", [(33,), (64,), (10, 100), (3, 3, 1, 40), (1024,)])
def test_small_leaves_are_not_summed_by_windows(shape):
    tx = salera_optax.alera()
    assert "reduce-window" in jax.jit(jnp.sum).lower(jnp.ones(shape)).compile(AS_USERS_DO).as_text()
    text = compiled_update(tx, {"a": jnp.ones(shape), "b": jnp.ones(shape)})
    assert "reduce-window" not in text


def test_states_of_many_runs_read_no_places_of_their_own():
    tx = salera_optax.scale_by_alera()
    runs = jax.vmap(tx.init)({name: jnp.ones((4, 3)) for name in "abcdefghij"})
    compiled = jax.jit(jax.vmap(tx.update)).lower(runs.path, runs).compile()
    assert "dynamic-slice(" in compiled.as_text()
    assert " gather(" not in compiled.as_text()
