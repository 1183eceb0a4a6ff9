"""The Page-Hinkley wrapper: rolls a training run back when its loss explodes, and halves its steps.

Source: arXiv 1709.01427, Section 3.2 and Algorithm 1. Where text, printed algorithm and published
code differ, this follows the code's detector (see `_detectors`) and the text's rollback, which the
code never performs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax import _history
from salera_optax._arrays import copied, incremented, select, squared_norms, statistics_dtype
from salera_optax._decision import deciding
from salera_optax._detectors import Detector
from salera_optax._devices import AxisName, as_names, summed, varying
from salera_optax._emit import ADDED, WRITTEN, Emit, branches, first, is_array, mended
from salera_optax._guard_state import GuardFields, GuardScalars, PageHinkleyState
from salera_optax._memory import starts_over
from salera_optax._robust import robust
from salera_optax._scalars import initial
from salera_optax._validation import (
    check_axes,
    check_axis_name,
    check_detector,
    check_number,
    check_params,
    check_same_tree,
    check_state,
    check_transformation,
    check_value,
)


class Guard(optax.GradientTransformationExtraArgs):
    """What `page_hinkley` returns.

    Attributes:
      step: what `salera_optax.step` calls, which writes the parameters itself; None without a
        rollback, and in a copy made by `_replace`, whose update is another one.
    """

    step: Callable[..., tuple[Any, Any]] | None = None


def _agreed(value: Any, dtype: Any, axis_name: AxisName) -> tuple[jax.Array, Any]:
    """The mean loss of the devices, and what the inner optimizer is to be given for `value`."""
    loss = jnp.asarray(value, dtype)
    if axis_name is None:
        return loss, value
    loss = summed(loss, axis_name) / jax.lax.axis_size(axis_name)
    return loss, loss.astype(jnp.result_type(value))


def _of_fixed_dtype(dtype: Any, value: ArrayLike) -> jax.Array:
    """A copy that is not weakly typed, or the second call would be compiled anew."""
    kind = jax.typeof(jnp.asarray(value))
    number = kind.weak_type and jnp.issubdtype(kind.dtype, jnp.floating)  # as a Python float
    return jnp.array(value, dtype if number else kind.dtype, copy=True)


def _check_not_nested(inner_state: Any) -> None:
    parts = jax.tree.leaves(inner_state, is_leaf=lambda part: isinstance(part, PageHinkleyState))
    if any(isinstance(part, PageHinkleyState) for part in parts):
        raise ValueError(
            "page_hinkley: inner must hold no further guard, such as salera or page_hinkley "
            "return: the outer one would scale the rollback of the inner one."
        )


def _check_axes(params: Any, value: Any, state: PageHinkleyState, axis_name: AxisName) -> None:
    """Raises where devices would decide each for itself: on an axis that has not been named."""
    known = varying(state.step).union(as_names(axis_name))
    for name, tree in (("params", params), ("value", value)):
        axes = frozenset().union(*(varying(leaf) for leaf in jax.tree.leaves(tree)))
        check_axes("page_hinkley", name, axes - known, axis_name)


def _check_call(
    inner: optax.GradientTransformation,
    updates: Any,
    state: Any,
    params: Any,
    value: Any,
    rollback: bool,
) -> None:
    check_value("page_hinkley", value)
    check_state("page_hinkley", state, PageHinkleyState)
    if params is None:
        raise ValueError("page_hinkley: params must be the current parameters, got None.")
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            "page_hinkley: params must not be LookaheadParams: optax.lookahead passes on no loss, "
            "and cannot be guarded."
        )
    if rollback:
        check_same_tree("page_hinkley", "params", params, state.snapshot)
    check_same_tree("page_hinkley", "updates", updates, params)
    expected = jax.eval_shape(inner.init, params)
    check_same_tree("page_hinkley", "inner_state", state.inner_state, expected)


def _check_arguments(inner: Any, detector: Any, factor: Any, on_alarm: Any, axis_name: Any) -> None:
    check_transformation("inner", inner)
    if isinstance(inner, Guard):
        raise TypeError("inner must not be a guard itself, such as salera or page_hinkley return.")
    check_detector(detector)
    check_number("factor", factor, lambda f: 0 < f <= 1, "in (0, 1]")
    check_axis_name(axis_name)
    if on_alarm is not None and not callable(on_alarm):
        raise TypeError(
            f"on_alarm must be a function of the inner state or None, got {on_alarm!r}."
        )


def page_hinkley(
    inner: optax.GradientTransformation,
    detector: Detector | None = None,
    *,
    factor: ArrayLike = 0.5,
    rollback: bool = True,
    on_alarm: Callable[[Any], Any] | None = None,
    axis_name: AxisName = None,
) -> Guard:
    """Guards an optimizer: at a catastrophe it restores the parameters and shrinks the steps.

    Use it around any Optax optimizer, the whole chain, to survive a loss explosion, a NaN, or a
    corrupt minibatch. It costs nothing to tune; it does not help where the loss passed as `value`
    is not comparable from one step to the next (a GAN's, a reinforcement-learning surrogate's).

    A bad minibatch and a bad step look alike for one loss. So the guard looks twice:

    * A loss or a gradient that is not finite, or far outside what the detector expects, is
      **held**: parameters, inner state and steps stay as they are, and the next minibatch is looked
      at with the same parameters. Nothing shrinks, and a normal loss ends it.
    * Once the detector is certain of a rise, or after nine held calls in a row, there is an
      **alarm**. The parameters go back to the last ones that nothing spoke against, and every later
      step is multiplied by `factor`, for good (down to 2^-50).
    * If the loss is high there too, the data have changed and no step was to blame: the second
      alarm gives back what the first one has shrunk, and the present loss becomes the new level.
      Where that took nine calls or more, what further alarms shrink grows back, a `factor` in 25
      steps without an alarm: those data alone were too much. (Not without `rollback`.)

    Through `optax.apply_updates` the parameters return by an addition, which rounds: the next call
    adds what is missing before it takes a step. `salera_optax.step` restores them bit for bit at
    once, even from NaN. Where an update would not be finite, as with a rate of NaN, the call counts
    as `nonfinite`, and that coordinate stays put, or goes back to the last quiet one by `step`.

    Parameters loaded into a running state are unknown to its snapshot: call `init` anew. To
    accumulate gradients, put `salera_optax.MultiSteps` around the guard.

    Args:
      inner: the optimizer to guard, any `optax.GradientTransformation` without a guard in it.
      detector: what judges loss and gradient norm: `robust()`, the default, `published()`, the
        paper's test, or a `Detector` of your own.
      factor: what an alarm multiplies every step by, in (0, 1]; 1 only rolls back.
      rollback: whether an alarm restores the parameters. The authors' code does not. Without it the
        guard holds and shrinks, and needs no copy of the parameters.
      on_alarm: function from the inner state to a mended one of the same structure, applied when a
        step is found to be to blame for an alarm. By default what `inner` remembers of the
        gradients starts over: momentum, Adam's moments and their count, for they would push again;
        schedules and rates stay. `lambda state: state` keeps it all.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices: the
        loss is averaged (for `inner` as well) and the norms are taken over them, so that all
        devices alarm together, also where only one has seen a NaN. Parameters that `shard_map`
        knows to vary over an axis count as sharded over it, all others as replicated. Under
        `pmap` and `check_vma=False` all count as replicated: do not shard them there. Gradients
        must be reduced already, as for any optimizer. `jit` needs no name.

    Returns:
      A transformation whose `update(grads, state, params, *, value, **extra)` needs the parameters
      and the minibatch loss `value`, a real scalar; `value` and `extra` are passed on to `inner`.
      Its updates have the dtype of the parameters and are finite. Its state, a
      `PageHinkleyState`, adds one copy of the parameters (`rollback`).

    Raises:
      TypeError: if `inner` is no transformation or a guard, `detector` no detector, `on_alarm` no
        function, `value` missing, or a leaf of the parameters not floating-point.
      ValueError: if a number is out of range, `params` None, `value` no real scalar, or the trees
        do not match.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = page_hinkley(optax.sgd(0.1))
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for loss_factor in (1, 1, 1, float("nan"), 1):  # one NaN loss
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x, value=loss_factor * loss)
      ...     x = optax.apply_updates(x, updates)
      >>> int(state.holds), int(state.alarms), round(float(x[0]), 3)
      (1, 0, 0.41)

    Source: arXiv 1709.01427, Section 3.2, Algorithm 1. Deviations: the rollback is performed, to
    the last quiet parameters; a value that is not finite is held; an alarm at parameters that were
    good shrinks nothing; the authors' stop below a rate of 1e-15 is a floor; the robust detector.
    """
    _check_arguments(inner, detector, factor, on_alarm, axis_name)
    guarded = optax.with_extra_args_support(inner)
    chosen = robust() if detector is None else detector

    added, written = (branches(guarded, emit, {}) for emit in (ADDED, WRITTEN))

    decide = deciding(chosen, factor, rollback, axis_name)

    def forgotten(inner_state: Any, params: Any) -> Any:
        return on_alarm(inner_state) if on_alarm else starts_over(guarded, inner_state, params)

    def init_fn(params: Any) -> PageHinkleyState:
        check_params("page_hinkley", params)
        dtype = statistics_dtype(params)
        inner_state = guarded.init(params)
        _check_not_nested(inner_state)
        history = _history.initial(len(jax.tree.leaves(params)), dtype)
        return PageHinkleyState(
            scalars=GuardScalars.of(initial(GuardFields(), dtype)),
            detector=jax.tree.map(partial(_of_fixed_dtype, dtype), chosen.init(dtype)),
            history=copied(history),
            snapshot=copied(params) if rollback else None,
            inner_state=inner_state,
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Any, PageHinkleyState]:
        return advanced(ADDED, updates, state, params, value, extra_args)

    def step_fn(
        grads: Any, state: Any, params: Any, *, value: ArrayLike | None = None, **extra_args: Any
    ) -> tuple[Any, PageHinkleyState]:
        return advanced(WRITTEN, grads, state, params, value, extra_args)

    def advanced(
        emit: Emit, updates: Any, state: Any, params: Any, value: Any, extra_args: Any
    ) -> tuple[Any, PageHinkleyState]:
        """What is emitted, and the next state."""
        _check_call(guarded, updates, state, params, value, rollback)
        _check_axes(params, value, state, axis_name)
        dtype = state.scale.dtype

        squares = squared_norms(updates, axis_name, params)
        vector = jnp.stack(squares).astype(dtype) if squares else jnp.zeros(0, dtype)
        norms, norm = jnp.sqrt(vector), jnp.sqrt(jnp.sum(vector))
        loss, value = _agreed(value, dtype, axis_name)
        went_back = state.action.go_back
        may_finish = rollback and emit is ADDED
        given = (params, state.snapshot) if may_finish else (None, None)
        decision, observed = decide(*given, state.scalars, state.detector, loss, norm)
        finish, response = decision.finish, decision.response
        action = decision.action

        # What was added may miss the snapshot by a rounding error. What writes starts from it.
        again = finish if may_finish else went_back
        renew = action.renew & ~again
        snapshot = select(renew, params, state.snapshot) if rollback else None
        retreat = (snapshot, action.go_back | again)
        start = emit.start(params, *retreat)
        inner_state = jax.lax.cond(action.forget, forgotten, first, state.inner_state, start)

        extra = {"value": jnp.asarray(value), **extra_args}
        fixed = {name: each for name, each in extra.items() if not is_array(each)}
        usual = added if emit is ADDED else written
        go, stay = branches(guarded, emit, fixed) if fixed else usual
        extra = {name: each for name, each in extra.items() if name not in fixed}
        result, inner_state = jax.lax.cond(
            ~action.hold, go, stay, updates, inner_state, start, response.scale, extra
        )
        result, broken = mended(
            emit, result, emit.beside(params, snapshot), ~action.hold, retreat, axis_name
        )
        # Those of _history.CAUSES.
        causes = jnp.stack([action.hold, decision.rise, ~decision.finite, broken])
        cause = jnp.where(finish, 0, jnp.max(causes * jnp.arange(1, 5)))
        history = _history.recorded(
            state.history, state.step, cause, action.alarm, loss, norm, norms
        )
        after = GuardFields(
            step=incremented(state.step),
            alarms=state.alarms + action.alarm,
            holds=state.holds + (action.hold & ~finish),
            nonfinite=state.nonfinite + (cause >= 3),
            action=action,
            response=response,
        )
        return result, PageHinkleyState(
            scalars=GuardScalars.of(after),
            detector=observed,
            history=select(finish, state.history, history),
            snapshot=snapshot,
            inner_state=inner_state,
        )

    guard = Guard(init_fn, update_fn)
    guard.step = step_fn if rollback else None  # else there is no snapshot to mend with
    return guard
