"""Gradient accumulation that gives the optimizer the mean loss of the minibatches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._guard_state import PageHinkleyState
from salera_optax._validation import check_state, check_value


class MultiStepsState(NamedTuple):
    """State of `MultiSteps`.

    Attributes:
      mean_value: mean loss of the minibatches accumulated so far, a float32 or wider scalar.
      multi_steps: the state of `optax.MultiSteps`.
    """

    mean_value: jax.Array
    multi_steps: optax.MultiStepsState


class MultiSteps(optax.MultiSteps):
    """`optax.MultiSteps` whose optimizer sees the mean loss over the accumulated minibatches.

    Use it instead of Optax's around a guard (`page_hinkley`, `salera`), or any optimizer that takes
    `value`. Optax hands on the loss of the last minibatch alone, which is noisier than the mean
    and may hide a NaN. The arguments are those of `optax.MultiSteps`; a minibatch that
    `should_skip_update_fn` rejects counts neither in the gradient nor in the loss. Unlike
    Optax's, it forgets a non-finite gradient after the step that has seen it, and a guard's
    `alarm` is only true on the step that raised it.

    Inside `shard_map` or `pmap`, give it the loss averaged over the devices. The guard belongs
    inside: around the accumulation its snapshot could be as old as the last minibatch, which has
    the same parameters.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.MultiSteps(salera_optax.salera(), every_k_schedule=2)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> @jax.jit
      ... def train_step(x, state):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     return salera_optax.step(tx, grads, state, x, value=loss)
      >>> for _ in range(10):  # 5 steps of 2 minibatches
      ...     x, state = train_step(x, state)
      >>> [round(float(xi), 2) for xi in x]
      [0.98, -1.96]
    """

    def init(self, params: Any) -> Any:
        """The state before the first minibatch, a `MultiStepsState`."""
        return MultiStepsState(jnp.zeros(()), super().init(params))

    def update(
        self,
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        value: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Any, Any]:
        """Accumulates; every k-th call is a step, the others return zeros.

        Args:
          updates: gradients of one minibatch.
          state: the state, from `init` or the last call.
          params: the parameters.
          value: the loss of this minibatch, a real scalar; required.
          **extra_args: passed on to the optimizer as they are at the k-th call.

        Returns:
          The updates and the new state.

        Raises:
          TypeError, ValueError: if `value` is missing or no real scalar, or `state` not that of
            `init`.
        """
        check_value("MultiSteps", value)
        check_state("MultiSteps", state, MultiStepsState)
        old = state.multi_steps
        mean = state.mean_value
        loss = jnp.asarray(value, mean.dtype)
        mean += (loss - mean) / (old.mini_step + 1)
        updates, new = super().update(updates, old, params, value=mean, **extra_args)

        stepped = new.gradient_step != old.gradient_step
        counted = stepped | (new.mini_step != old.mini_step)
        new = new._replace(
            # Optax multiplies by zero here, which leaves a NaN where it is.
            acc_grads=jax.tree.map(lambda g: jnp.where(stepped, 0, g), new.acc_grads),
            inner_opt_state=_actions_only_when(stepped, new.inner_opt_state),
        )
        mean = jnp.where(stepped, 0, jnp.where(counted, mean, state.mean_value))
        return updates, MultiStepsState(mean, new)

    def has_updated(self, state: Any) -> jax.Array:
        """Whether the last call was a step, a bool scalar."""
        return jnp.asarray(super().has_updated(state.multi_steps))

    def gradient_transformation(self) -> optax.GradientTransformationExtraArgs:
        """The same as a transformation, for `optax.chain` or `nnx.Optimizer`."""
        return optax.GradientTransformationExtraArgs(self.init, self.update)


def _actions_only_when(stepped: jax.Array, inner_state: Any) -> Any:
    """The state with every guard's action taken back unless this call was a step."""
    return jax.tree.map(
        lambda part: (
            part.acted(jax.tree.map(lambda done: done & stepped, part.action))
            if isinstance(part, PageHinkleyState)
            else part
        ),
        inner_state,
        is_leaf=lambda part: isinstance(part, PageHinkleyState),
    )
