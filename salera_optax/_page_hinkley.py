"""The Page-Hinkley wrapper: rolls a training run back when its loss explodes, and halves its steps.

Source: arXiv 1709.01427, Section 3.2 and Algorithm 1. Where text, printed algorithm and published
code differ, this follows the code's detector (see `_detector`) and the text's rollback, which the
code never performs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax import _detector
from salera_optax._arrays import (
    copied,
    incremented,
    like,
    scaled,
    select,
    squared_norms,
    statistics_dtype,
)
from salera_optax._detector import DETECTORS, Detector, DetectorState
from salera_optax._devices import AxisName, as_names, summed, varying
from salera_optax._validation import (
    check_axis_name,
    check_choice,
    check_number,
    check_params,
    check_same_tree,
    check_state,
    check_transformation,
    check_value,
)

_LEAST_SCALE = 2.0**-50  # where the authors' code gives up (1e-15); here the scale stays there
_LEAST_RECOVERY = 2.0**-10
_STREAK = 3  # alarms in succession, each after a single step, that are the rate's fault
_RECOVERY_STEPS = 100  # accepted steps in which the recovery factor doubles


class Guard(optax.GradientTransformationExtraArgs):
    """What `page_hinkley` returns.

    Attributes:
      step: what `salera_optax.step` calls, which writes the parameters itself; None in a copy made
        by `_replace`, whose update is another one.
    """

    step: Callable[..., tuple[Any, Any]] | None = None


class PageHinkleyState(NamedTuple):
    """State of `page_hinkley`.

    Attributes:
      alarm: bool scalar, whether the last call was an alarm.
      alarms: int32 scalar, alarms so far.
      nonfinite: int32 scalar, those of them that a non-finite loss or gradient raised.
      streak: int32 scalar, how many alarms in succession came right after the first step behind an
        alarm.
      scale: product of the factors that stay, at least 2^-50.
      recovery: factor that bad minibatches (non-finite values, outliers) lower and quiet steps
        raise, at most 1.
      settling: bool scalar, whether the next call must check that the rollback was exact.
      detector: the statistics of the test.
      snapshot: the parameters before the last step (None without rollback).
      inner_snapshot: the inner state before the last step (None without restore_inner).
      inner_state: state of the guarded optimizer.
    """

    alarm: jax.Array
    alarms: jax.Array
    nonfinite: jax.Array
    streak: jax.Array
    scale: jax.Array
    recovery: jax.Array
    settling: jax.Array
    detector: DetectorState
    snapshot: Any
    inner_snapshot: Any
    inner_state: Any


def _fused(hold: jax.Array, go: Any, keep: Any, *operands: Any) -> Any:
    """The result of `keep` where `hold`, else of `go`; and where both start, `operands[2]`.

    A GPU, for which XLA fuses all of it, is fastest so; and a CPU where there is a snapshot of the
    inner state, which holds what `keep` returns: `go` may overwrite the state in place.
    """
    return *select(hold, keep(*operands), go(*operands)), operands[2]


def _branched(hold: jax.Array, go: Any, keep: Any, updates: Any, inner: Any, *params: Any) -> Any:
    """The same by a conditional: without that snapshot a CPU would copy the state, to keep both."""
    # Else XLA would choose where to start once for each use, from two copies. Leaf by leaf, for all
    # together would count as varying over every axis of `shard_map` that one of them varies over.
    params = jax.tree.map(jax.lax.optimization_barrier, params)
    # XLA copies every buffer unless the branch that returns its operands untouched is branch 0,
    # the false one.
    return *jax.lax.cond(~hold, go, keep, updates, inner, *params), params[0]


def _differs(a: Any, b: Any, axis_name: AxisName) -> jax.Array:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    count = sum((jnp.any(x != y).astype(jnp.int32) for x, y in pairs), jnp.zeros((), jnp.int32))
    return summed(count, axis_name) > 0


def _agreed(value: Any, dtype: Any, axis_name: AxisName) -> tuple[jax.Array, Any]:
    """The mean loss of the devices, and what the inner optimizer is to be given for `value`."""
    loss = jnp.asarray(value, dtype)
    if axis_name is None:
        return loss, value
    loss = summed(loss, axis_name) / jax.lax.axis_size(axis_name)
    return loss, loss.astype(jnp.result_type(value))


def _keep_finite(update: jax.Array, param: ArrayLike) -> jax.Array:
    """Zero wherever the updated parameter would not be finite."""
    return jnp.where(jnp.isfinite(param + update), update, jnp.zeros_like(update))


def _check_axes(params: Any, value: Any, state: PageHinkleyState, axis_name: AxisName) -> None:
    """Raises where devices would decide each for itself: on an axis that has not been named."""
    known = varying(state.scale).union(as_names(axis_name))
    for name, tree in (("params", params), ("value", value)):
        axes = frozenset().union(*(varying(leaf) for leaf in jax.tree.leaves(tree))) - known
        if axes:
            raise ValueError(
                f"page_hinkley: axis_name must name every axis of shard_map over which {name} "
                f"vary, got {axis_name!r} without {', '.join(map(repr, sorted(axes)))}."
            )


def _check_call(
    updates: Any, state: Any, params: Any, value: Any, rollback: bool, restore_inner: bool
) -> None:
    check_value("page_hinkley", value)
    check_state("page_hinkley", state, PageHinkleyState)
    if params is None:
        raise ValueError("page_hinkley: params must be the current parameters, got None.")
    if rollback:
        check_same_tree("page_hinkley", "params", params, state.snapshot)
    if restore_inner:
        check_same_tree("page_hinkley", "inner_state", state.inner_state, state.inner_snapshot)
    check_same_tree("page_hinkley", "updates", updates, params)


def _check_arguments(
    inner: Any,
    smoothing: Any,
    threshold: Any,
    factor: Any,
    on_alarm: Any,
    detector: Any,
    axis_name: Any,
) -> None:
    check_transformation("inner", inner)
    check_number("smoothing", smoothing, lambda s: 0 < s <= 1, "in (0, 1]")
    check_number("threshold", threshold, lambda t: 0 < t < math.inf, "finite and greater than 0")
    check_number("factor", factor, lambda f: 0 < f <= 1, "in (0, 1]")
    check_choice("detector", detector, DETECTORS)
    check_axis_name(axis_name)
    if on_alarm is not None and not callable(on_alarm):
        raise TypeError(
            f"on_alarm must be a function of the inner state or None, got {on_alarm!r}."
        )


def page_hinkley(
    inner: optax.GradientTransformation,
    *,
    smoothing: ArrayLike = 0.1,
    threshold: ArrayLike = 0.1,
    factor: ArrayLike = 0.5,
    rollback: bool = True,
    restore_inner: bool = True,
    on_alarm: Callable[[Any], Any] | None = None,
    detector: Detector = "robust",
    axis_name: AxisName = None,
) -> Guard:
    """Guards an optimizer: at a catastrophe it restores the parameters and shrinks the steps.

    Use it around any Optax optimizer, the whole chain, to survive a loss explosion, a NaN, or a
    corrupt minibatch. It costs nothing to tune; it does not help where the loss passed as `value`
    is not comparable from one step to the next (a GAN's, a reinforcement-learning surrogate's).

    An alarm is raised by the loss (see `detector`) or by a loss or gradient that is not finite.
    At an alarm this call's gradient is not used; the parameters go back to what they were before
    the last step; with `restore_inner` so does the state of `inner`; the statistics restart.

    * A rise of the loss multiplies every later step by `factor`, for good (down to 2^-50).
    * A bad minibatch (a value that is not finite, one loss far above the rest, a gradient norm more
      than ten times the largest recent one) may not be the rate's fault: it multiplies by `factor`
      too, but down to 2^-10 only, and the steps grow back, twofold in 100 quiet steps. Where the
      first step behind an alarm ends in the next, three times in succession, the steps are far too
      long: the third multiplies by `factor` cubed for good, and takes back up to two of the factors
      that would have grown back. With the published detector a rise stays a single `factor`.
    * Alarms in a row, with no step between them, shrink once. However many bad minibatches come in
      a row, the parameters stay finite and the training goes on behind them.

    Through `optax.apply_updates` the parameters return by an addition, which rounds: the next call
    adds what is missing before it takes a step. `salera_optax.step` restores them bit for bit at
    once, even from NaN. Where an update would overflow a parameter, that coordinate stays put.

    Parameters loaded into a running state are unknown to its snapshot: call `init` anew. To
    accumulate gradients, put `salera_optax.MultiSteps` around the guard.

    Args:
      inner: the optimizer to guard, any `optax.GradientTransformation`.
      smoothing: weight of a new loss in the smoothed loss, in (0, 1]; rho in the paper, which
        takes the ratio of the minibatch to the training set. 1 is no smoothing. On a plateau, a
        jump above `threshold` that lasts is noticed at once if it is 50 of the loss's deviations
        high, within 12 steps if it is 20 (within 3 with smoothing 1); a slow rise of 5 % a step
        within 35. After a long descent the average is high, and a smaller jump takes longer.
      threshold: rise of the statistic that raises an alarm, in units of `|first loss|`, finite and
        greater than 0; 1/lambda in the paper. A first loss that is negative or small works: the
        robust detector never goes below 15 of the loss's own deviations.
      factor: what an alarm multiplies every step by, in (0, 1]; 1 only rolls back.
      rollback: whether an alarm restores the parameters. The authors' code does not.
      restore_inner: whether an alarm also restores the state of `inner`. A momentum that has
        absorbed an exploding gradient would push again.
      on_alarm: function from the inner state to a mended one of the same structure, applied at an
        alarm, after `restore_inner`; such as `forget_path`.
      detector: "robust" (default) takes off a slack in units of the loss's own deviation, which
        stops the false alarms on a plateau, and adds two tests that fire at once: on a loss more
        than 40 deviations up, and on a gradient norm more than ten times the largest recent one.
        "published" is the test of the paper alone. Non-finite values alarm in both.
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
      `PageHinkleyState`, adds one copy of the parameters (`rollback`) and one of the inner state
      (`restore_inner`).

    Raises:
      TypeError: if `inner` is no transformation, `on_alarm` no function, `value` missing, or a
        leaf of the parameters not floating-point.
      ValueError: if a number is out of range, `detector` unknown, `params` None, `value` no real
        scalar, or the trees do not match.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = page_hinkley(optax.sgd(0.1))
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for loss_factor in (1, 1, 1, float("nan"), 1):  # one NaN loss
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x, value=loss_factor * loss)
      ...     x = optax.apply_updates(x, updates)
      >>> int(state.alarms), round(float(x[0]), 3)
      (1, 0.576)

    Source: arXiv 1709.01427, Section 3.2, Algorithm 1. Deviations: the rollback is performed, the
    inner state can be restored, non-finite values alarm, the authors' stop below a rate of 1e-15
    is a floor, the robust detector, and what bad minibatches and alarms in succession shrink.
    """
    _check_arguments(inner, smoothing, threshold, factor, on_alarm, detector, axis_name)
    guarded = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> PageHinkleyState:
        check_params("page_hinkley", params)
        dtype = statistics_dtype(params)
        inner_state = guarded.init(params)
        return PageHinkleyState(
            alarm=jnp.zeros((), bool),
            alarms=jnp.zeros((), jnp.int32),
            nonfinite=jnp.zeros((), jnp.int32),
            streak=jnp.zeros((), jnp.int32),
            scale=jnp.ones((), dtype),
            recovery=jnp.ones((), dtype),
            settling=jnp.zeros((), bool),
            detector=_detector.init(dtype),
            snapshot=copied(params) if rollback else None,
            inner_snapshot=copied(inner_state) if restore_inner else None,
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
        return advanced(updates, state, params, value, extra_args, in_place=False)

    def step_fn(
        grads: Any, state: Any, params: Any, *, value: ArrayLike | None = None, **extra_args: Any
    ) -> tuple[Any, PageHinkleyState]:
        return advanced(grads, state, params, value, extra_args, in_place=True)

    def advanced(
        updates: Any, state: Any, params: Any, value: Any, extra_args: Any, *, in_place: bool
    ) -> tuple[Any, PageHinkleyState]:
        """The next parameters, or else what is to be added to get them, and the next state."""
        _check_call(updates, state, params, value, rollback, restore_inner)
        _check_axes(params, value, state, axis_name)
        dtype = state.scale.dtype

        norm = jnp.sqrt(sum(squared_norms(updates, axis_name, params), jnp.zeros((), dtype)))
        loss, value = _agreed(value, dtype, axis_name)
        verdict, observed = _detector.observe(
            state.detector, loss, norm, smoothing, threshold, detector, rollback
        )
        # Adding the difference may miss the snapshot by a rounding error. Then this call adds what
        # is missing, and neither takes a step nor looks at the loss.
        settle = state.settling
        if rollback and not in_place:
            settle = jax.lax.cond(
                settle,
                lambda: _differs(params, state.snapshot, axis_name),
                lambda: jnp.zeros((), bool),
            )
        alarm = ~settle & (verdict.catastrophe | verdict.outlier | verdict.nonfinite)
        hold = alarm | settle
        streak, scale, recovery = _shrunk(
            state, verdict, alarm, jnp.asarray(factor, dtype), detector
        )
        recovery = jnp.where(hold, recovery, jnp.minimum(recovery * 2 ** (1 / _RECOVERY_STEPS), 1))

        # Before the first step there is nothing to go back to, and parameters may have been loaded
        # since init. Selected first, so that what follows can reuse the buffers.
        started = (state.detector.n > 0) | (state.alarms > 0)
        inner_state, start = state.inner_state, params
        if restore_inner:
            inner_state = select(alarm & started, state.inner_snapshot, inner_state)
        if rollback:
            start = select(hold & started, state.snapshot, params)
        mended = inner_state  # Outside `keep`, which must return its operand untouched.
        if on_alarm is not None:
            mended = select(alarm, on_alarm(inner_state), inner_state)

        def go(updates: Any, inner_state: Any, start: Any, *params: Any) -> tuple[Any, Any]:
            del params
            moves, after = guarded.update(updates, inner_state, start, value=value, **extra_args)
            moves = jax.tree.map(
                lambda u, p: _keep_finite(scaled(u, scale * recovery, p), p), moves, start
            )
            after = jax.tree.map(like, after, inner_state)
            return optax.apply_updates(start, moves) if in_place else moves, after

        def keep(updates: Any, inner_state: Any, start: Any, *params: Any) -> tuple[Any, Any]:
            del updates
            if in_place:
                return start, inner_state
            moves = jax.tree.map(lambda s, p: _keep_finite(s - p, p), start, *params)
            return moves, inner_state

        operands = (updates, mended, start) if in_place else (updates, mended, start, params)
        fused = partial(_fused, hold, go, keep)
        if restore_inner:
            result, after, snapshot = fused(*operands)
        else:
            result, after, snapshot = jax.lax.platform_dependent(
                *operands, cpu=partial(_branched, hold, go, keep), default=fused
            )
        return result, PageHinkleyState(
            alarm=alarm,
            alarms=state.alarms + alarm,
            nonfinite=state.nonfinite + (alarm & verdict.nonfinite),
            streak=streak,
            scale=scale,
            recovery=recovery,
            settling=alarm if rollback and not in_place else jnp.zeros_like(alarm),
            detector=select(settle, state.detector, observed),
            snapshot=snapshot if rollback else None,
            inner_snapshot=inner_state if restore_inner else None,
            inner_state=after,
        )

    guard = Guard(init_fn, update_fn)
    guard.step = step_fn
    return guard


def _shrunk(
    state: PageHinkleyState,
    verdict: _detector.Verdict,
    alarm: jax.Array,
    factor: jax.Array,
    detector: Detector,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Streak, scale and recovery after this call.

    A catastrophe shrinks the scale for good. A bad minibatch may not be the rate's fault: it lowers
    the recovery factor, which comes back. But where the first step behind an alarm ends in the next
    alarm three times in succession, the steps are far too long: that shrinks the scale by factor^3
    for good, and the recovery factor gets up to factor^-2 back. With the published detector the
    scale takes over no more than the recovery factor has lost. Nothing shrinks twice before a loss
    has been accepted: no step was taken in between.
    """
    shrink = alarm & ((state.detector.n > 0) | (state.alarms == 0))
    again = (state.detector.n == 1) & (state.alarms > 0)
    streak = jnp.where(shrink, jnp.where(again, incremented(state.streak), 0), state.streak)
    for_good = verdict.catastrophe | (streak >= _STREAK)
    lost = factor ** (_STREAK - 1)
    if detector == "published":
        lost = jnp.maximum(state.recovery, lost)
    taken_over = jnp.where(streak == _STREAK, lost, 1)
    scale = jnp.maximum(state.scale * factor * taken_over, _LEAST_SCALE)
    recovery = jnp.maximum(state.recovery * factor, jnp.minimum(state.recovery, _LEAST_RECOVERY))
    return (
        streak,
        jnp.where(shrink & for_good, scale, state.scale),
        jnp.where(
            shrink,
            jnp.where(for_good, jnp.minimum(state.recovery / taken_over, 1), recovery),
            state.recovery,
        ),
    )
