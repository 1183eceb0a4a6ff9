"""Parameter-wise ALERA: the same comparison coordinate by coordinate, one rate for each.

Source: arXiv 1709.01427, Appendix B and Algorithm 2, whose line 15 multiplies by the initial rate
at every step: a slip, it enters once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._alera import check_arguments
from salera_optax._arrays import (
    incremented,
    real_size,
    scaled,
    squared_modulus,
    squared_norms,
    statistics_dtype,
    wide_dtype,
    zeros_like,
)
from salera_optax._devices import AxisName
from salera_optax._laws import Law, Published, changed, entered, score
from salera_optax._validation import check_params, check_same_tree, check_state


class ScaleByParameterwiseAleraState(NamedTuple):
    """State of `scale_by_parameterwise_alera`.

    Attributes:
      step: int32 scalar, the steps taken, alarms excluded.
      path: exponential average of the normalized gradient, like the parameters, float32 or wider.
      log_rate: logarithm of the rate multiplier of every coordinate, like the parameters, real.
      lengths: two numbers, as in `ScaleByAleraState`, of the whole tree.
      base_state: state of the base transformation.
    """

    step: jax.Array
    path: Any
    log_rate: Any
    lengths: jax.Array
    base_state: Any


def scale_by_parameterwise_alera(
    alpha: ArrayLike = 0.1,
    law: Law | None = None,
    *,
    base: optax.GradientTransformation | None = None,
    eps: ArrayLike = 1e-6,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies every coordinate of the direction by a rate of its own.

    The part that `spalera` is made of, for an `optax.chain` of your own; `spalera` has the
    mathematics. One path runs over the whole tree, normalized by the norm over all coordinates;
    each coordinate takes its share of the random walk's mean and deviation. The sign is not
    flipped: a learning rate goes behind it.

    Args:
      alpha: memory rate of the path, in (0, 1].
      law: how a rate follows its path, as in `scale_by_alera`, elementwise: for a real coordinate
        p of the N of the whole path it sees N p^2 and d = 1, for a complex one ``N |p|^2 / 2`` and
        d = 2. None is `score(2.11e-8)`, the paper's robust setting.
      base: transformation of the direction, such as `optax.trace(0.9)`, or None for the gradient
        itself; the path always sees the raw gradient.
      eps: where the gradient's norm is at most this, finite and at least 0, the path only decays.
      axis_name: inside `shard_map` or `pmap`, the axes to take the norms over; see `alera`.

    Returns:
      A transformation. Its state, a `ScaleByParameterwiseAleraState`, holds two copies of the
      parameters and the state of `base`. The updates have the dtype of the parameters.

    Raises:
      ValueError: for an argument out of range, or gradients that do not fit the parameters.
      TypeError: for a base that is no transformation, a law that is no function, or parameters
        that are not floating-point.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from salera_optax import score
      >>> tx = optax.chain(scale_by_parameterwise_alera(0.1, score(0.1)), optax.scale(-0.1))
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     updates, state = tx.update(2 * x, state)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(state[0].log_rate[1] > state[0].log_rate[0])  # the larger gradient agrees more
      True

    Source: arXiv 1709.01427, Appendix B, Algorithm 2.
    """
    rate_law = score(2.11e-8) if law is None else law
    check_arguments(alpha, rate_law, base, eps, axis_name)
    inner = optax.with_extra_args_support(optax.identity() if base is None else base)

    def init_fn(params: Any) -> ScaleByParameterwiseAleraState:
        check_params("scale_by_parameterwise_alera", params)

        return ScaleByParameterwiseAleraState(
            step=jnp.zeros((), jnp.int32),
            path=jax.tree.map(lambda p: zeros_like(p, wide_dtype(p)), params),
            log_rate=jax.tree.map(lambda p: zeros_like(p, statistics_dtype(p)), params),
            lengths=jnp.zeros(2, statistics_dtype(params)),
            base_state=inner.init(params),
        )

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByParameterwiseAleraState]:
        check_state("scale_by_parameterwise_alera", state, ScaleByParameterwiseAleraState)
        check_same_tree("scale_by_parameterwise_alera", "updates", updates, state.path)
        step = incremented(state.step)
        direction, base_state = inner.update(updates, state.base_state, params, **extra_args)
        dtype = statistics_dtype(state.path)
        memory = jnp.asarray(alpha, dtype)
        total = sum(real_size(leaf, axis_name) for leaf in jax.tree.leaves(state.path))

        squares = squared_norms(updates, axis_name, state.path)
        norm = jnp.sqrt(jnp.sum(jnp.stack(squares or [jnp.zeros(())]), dtype=dtype))
        weight, lengths = entered(
            isinstance(rate_law, Published), norm, state.lengths, memory, step, eps
        )
        path = jax.tree.map(
            lambda p, g: scaled(p, 1 - memory, p) + scaled(g, weight, p), state.path, updates
        )

        def adapted(log_rate: jax.Array, p: jax.Array) -> jax.Array:
            # Each coordinate as a path of its own, as long as the share that it has of the whole. A
            # complex one covers two of the `total` real dimensions.
            parts = 2 if jnp.iscomplexobj(p) else 1
            squared = squared_modulus(p).astype(dtype) * (total / parts)
            moved, d = norm > eps, jnp.array(parts, dtype)
            return changed(rate_law, log_rate, squared, lengths, d, moved, memory, step)

        log_rate = jax.tree.map(adapted, state.log_rate, path)
        direction = jax.tree.map(
            lambda u, r, p: scaled(u, jnp.exp(r), p),
            direction,
            log_rate,
            direction if params is None else params,
        )
        return direction, ScaleByParameterwiseAleraState(step, path, log_rate, lengths, base_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
