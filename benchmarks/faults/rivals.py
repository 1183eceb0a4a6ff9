"""What others put around an optimizer against bad steps, written anew for the league of faults."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.outliers import stands_out

_WINDOW = 128


def _where(skip: jax.Array, held: Any, new: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.where(skip, *leaves), held, new)


class SkipStepState(NamedTuple):
    """State of `skip_step`.

    Attributes:
      alarm: bool scalar, whether the last step was skipped.
      step: int32 scalar, steps so far, those skipped among them.
      losses: the last 128 losses.
      norms: the last 128 norms of the gradient.
      inner_state: state of the guarded optimizer.
    """

    alarm: jax.Array
    step: jax.Array
    losses: jax.Array
    norms: jax.Array
    inner_state: Any


def skip_step(
    inner: optax.GradientTransformation, axis_name: str, nan_passes: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose loss or gradient norm is 6 deviations above its mean of 128 steps.

    The rule of OLMo-core (github.com/allenai/OLMo-core, `optim/skip_step_optimizer.py`), of
    MaxText (github.com/AI-Hypercomputer/maxtext, `optimizers/optimizers.py`) and of Levanter
    (github.com/stanford-crfm/levanter, `optim/skipstep.py`), written anew. As there, what is
    skipped enters the window, a NaN too: then nothing passes for as long as it is in there. The
    first step that can be skipped is the 64th; in Levanter, whose deviation is that of a
    population, it is the 65th. The trainers of all three clip gradients besides; here nothing does.

    Args:
      inner: the optimizer to guard.
      axis_name: the axis of the replicas, over which the loss is averaged.
      nan_passes: whether a NaN reaches the parameters although its step is skipped. OLMo-core and
        Levanter multiply by 0 or 1, and zero times NaN is NaN; MaxText puts zeros.

    Returns:
      An optimizer whose `update` needs `value`, the minibatch loss of the replica.
    """
    guarded = optax.with_extra_args_support(inner)
    least = _WINDOW // 2 - 1

    def init_fn(params: Any) -> SkipStepState:
        empty = jnp.zeros(_WINDOW)
        return SkipStepState(
            jnp.zeros((), bool), jnp.zeros((), jnp.int32), empty, empty, inner.init(params)
        )

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[Any, SkipStepState]:
        loss, norm = jax.lax.pmean(value, axis_name), optax.tree.norm(updates)
        step, place = state.step, state.step % _WINDOW
        skip = stands_out(loss, state.losses, step, least=least)
        skip |= stands_out(norm, state.norms, step, least=least)
        moves, after = guarded.update(updates, state.inner_state, params, **extra_args)
        nothing = optax.tree.scale(0, moves) if nan_passes else optax.tree.zeros_like(moves)
        return _where(skip, nothing, moves), SkipStepState(
            alarm=skip,
            step=step + 1,
            losses=state.losses.at[place].set(loss),
            norms=state.norms.at[place].set(norm),
            inner_state=_where(skip, state.inner_state, after),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class SkipAndClipState(NamedTuple):
    """State of `skip_and_clip`.

    Attributes:
      alarm: bool scalar, whether the last step was skipped.
      inner_state: state of the guarded optimizer.
    """

    alarm: jax.Array
    inner_state: Any


def skip_and_clip(
    inner: optax.GradientTransformation, drop_norm: float = 100, max_norm: float = 1
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose gradient has too large a norm, and clips the gradient of the others.

    `skip_and_clip_by_global_norm` of axlearn (github.com/apple/axlearn,
    `axlearn/common/optimizers.py`), written anew, with the defaults of the one learner there that
    uses it (`adastar_learner_config` of `axlearn/experiments/text/gpt/common.py`). Its other
    bounds, multiples of the mean of the norms or of their deviation, are in none of their
    configurations and left out.

    Args:
      inner: the optimizer to guard.
      drop_norm: the norm from which on a step is skipped; one that is not finite is so too.
      max_norm: the norm to which larger gradients are scaled.

    Returns:
      An optimizer.
    """
    guarded = optax.with_extra_args_support(inner)

    def init_fn(params: Any) -> SkipAndClipState:
        return SkipAndClipState(jnp.zeros((), bool), inner.init(params))

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, SkipAndClipState]:
        norm = optax.tree.norm(updates)
        skip = ~(norm < drop_norm)  # so is a NaN
        clipped = optax.tree.scale(jnp.minimum(1, max_norm / (norm + 1e-8)), updates)
        moves, after = guarded.update(clipped, state.inner_state, params, **extra_args)
        return _where(skip, optax.tree.zeros_like(moves), moves), SkipAndClipState(
            alarm=skip, inner_state=_where(skip, state.inner_state, after)
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class ZClipState(NamedTuple):
    """State of `zclip`.

    Attributes:
      step: int32 scalar, steps so far.
      mean: of the norms of the gradient, those that stood out counted as they were clipped.
      variance: of the same.
    """

    step: jax.Array
    mean: jax.Array
    variance: jax.Array


def zclip(
    alpha: float = 0.97, threshold: float = 2.5, warmup: int = 25, max_norm: float = 1
) -> optax.GradientTransformation:
    """Clips a gradient whose norm stands out, the closer to the mean norm the more it does.

    ZClip (Kumar et al., arXiv 2504.02507; github.com/bluorion-com/ZClip, `zclip/zclip.py`), written
    anew, in its default mode, by z-scores with adaptive scaling. With mean m and deviation s, a
    norm at z = (norm - m) / s > threshold is clipped to m + threshold^2 s / z, and counts as that
    in m and s. During the warmup m and s are those of all norms so far. A NaN is not clipped and
    stays in m and s for good: from then on only `max_norm` clips.

    Args:
      alpha: the share of the old averages in the new ones, in (0, 1).
      threshold: the z-score above which a norm stands out.
      warmup: steps in which none does, at least 1.
      max_norm: the norm to which larger gradients are scaled besides; m and s do not heed it.

    Returns:
      A transformation of gradients, to be chained before an optimizer.
    """

    def init_fn(params: Any) -> ZClipState:
        del params
        return ZClipState(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, ZClipState]:
        del params
        norm, learning = optax.tree.norm(updates), state.step < warmup
        deviation = jnp.sqrt(state.variance)
        z = (norm - state.mean) / (deviation + 1e-6)
        adaptive = state.mean + threshold**2 * deviation / z
        bound = jnp.where(~learning & (z > threshold), adaptive, norm)
        share = jnp.where(learning, 1 / (state.step + 1), 1 - alpha)
        mean = (1 - share) * state.mean + share * bound
        # Welford's update makes the variance of the warmup that of its norms.
        square = (bound - mean) * (bound - jnp.where(learning, state.mean, mean))
        variance = (1 - share) * state.variance + share * square
        limit = jnp.minimum(bound, max_norm)
        scale = jnp.where(norm > limit, limit / (norm + 1e-6), 1)
        return optax.tree.scale(scale, updates), ZClipState(state.step + 1, mean, variance)

    return optax.GradientTransformation(init_fn, update_fn)
