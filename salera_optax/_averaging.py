"""The average of the parameters along a run, which is often better than where it ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._arrays import incremented, like, wide_dtype
from salera_optax._validation import check_number, check_params, check_same_tree, check_state


class PolynomialAveragingState(NamedTuple):
    """State of `polynomial_averaging`.

    Attributes:
      number: int32 scalar, how many parameters have been averaged.
      average: of the parameters, float32 or wider.
    """

    number: jax.Array
    average: Any


def polynomial_averaging(degree: ArrayLike = 16) -> optax.GradientTransformation:
    """Averages the parameters, the later ones with the larger weight, and changes no update.

    The noise of the last minibatches averages out, as if the rate had been brought down in the end:
    take `eval_params(opt_state, params)` where you evaluate. Put it inside the guard, which keeps
    exploded parameters from it: `page_hinkley(optax.chain(optax.adam(1e-3),
    polynomial_averaging()))`; or say `salera_adamw(average=True)`. It starts over where a step was
    to blame for an alarm.

    The weight of the t-th parameters in the average of T is about ``(t/T)^degree``: at 16 the last
    tenth of a run, however long it is, makes up most of it.

    Args:
      degree: how soon the past fades, finite and at least 0; 0 is the plain mean.

    Returns:
      A transformation whose `update` needs the parameters. Its state, a `PolynomialAveragingState`,
      holds one copy of them.

    Raises:
      ValueError, TypeError: if `degree` is out of range or no number, or `params` None.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = optax.chain(optax.sgd(0.9), polynomial_averaging(degree=1))
      >>> x = jnp.array([1.0])
      >>> state = tx.init(x)
      >>> for _ in range(20):  # to and fro about zero
      ...     updates, state = tx.update(2 * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> abs(float(eval_params(state, x)[0])) < abs(float(x[0]))
      True

    Source: Shamir and Zhang, arXiv 1212.1824, Section 4.
    """
    check_number("degree", degree, lambda d: 0 <= d < float("inf"), "finite and at least 0")

    def init_fn(params: Any) -> PolynomialAveragingState:
        check_params("polynomial_averaging", params)

        def wide(p: Any) -> jax.Array:
            dtype = wide_dtype(p)
            if isinstance(p, jax.ShapeDtypeStruct):
                return jnp.zeros(p.shape, dtype)
            return jnp.array(p, dtype, copy=True)

        return PolynomialAveragingState(jnp.zeros((), jnp.int32), jax.tree.map(wide, params))

    def update_fn(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, PolynomialAveragingState]:
        check_state("polynomial_averaging", state, PolynomialAveragingState)
        if params is None:
            raise ValueError("polynomial_averaging: params must be the parameters, got None.")
        check_same_tree("polynomial_averaging", "params", params, state.average)
        weight = (degree + 1) / (state.number + degree + 1)
        average = jax.tree.map(
            lambda a, p: like(a + weight * (jnp.asarray(p, a.dtype) - a), a), state.average, params
        )
        return updates, PolynomialAveragingState(incremented(state.number), average)

    return optax.GradientTransformation(init_fn, update_fn)


def eval_params(opt_state: Any, params: Any) -> Any:
    """The averaged parameters, to evaluate or to deploy; training goes on from `params`.

    Args:
      opt_state: state of an optimizer with `polynomial_averaging` in it, however deeply nested.
      params: the parameters; before the first step they are their own average, and so are leaves
        that are masked from it.

    Returns:
      The average in the structure of `params`, each leaf of the dtype of the parameter. Batch
      statistics do not belong to it: take them anew with a pass over the data.

    Raises:
      ValueError: if there is no average in the state, or there are several.

    Example:
      >>> import jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera_adamw(average=True)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(10):
      ...     x, state = salera_optax.step(tx, 2 * x, state, x, value=jnp.sum(x**2))
      >>> bool(jnp.abs(eval_params(state, x) - x).max() < 0.01)
      True
    """
    parts = jax.tree.leaves(
        opt_state, is_leaf=lambda part: isinstance(part, PolynomialAveragingState)
    )
    found = [part for part in parts if isinstance(part, PolynomialAveragingState)]
    if len(found) != 1:
        raise ValueError(
            "eval_params: opt_state must hold one average, as of salera_adamw(average=True) or "
            f"polynomial_averaging(), got {len(found)}."
        )
    averages = jax.tree.leaves(found[0].average, is_leaf=_is_masked)
    leaves, treedef = jax.tree.flatten(params, is_leaf=_is_masked)
    shapes = [_shape(a if _is_masked(a) else p) for a, p in zip(averages, leaves, strict=False)]
    if len(averages) != len(leaves) or shapes != list(map(_shape, averages)):
        check_same_tree("eval_params", "params", params, found[0].average)
    known = found[0].number > 0
    chosen = [
        p if _is_masked(a) else jnp.where(known, jnp.asarray(a, jnp.result_type(p)), p)
        for a, p in zip(averages, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, chosen)


def _is_masked(part: Any) -> bool:
    return isinstance(part, optax.MaskedNode)


def _shape(part: Any) -> Any:
    return None if _is_masked(part) else jnp.shape(part)
