"""What the guard decides on a call, before anything is done: from loss and norm to an action."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax import _response
from salera_optax._arrays import like, select, wide_dtype
from salera_optax._detectors import Detector, Verdict
from salera_optax._devices import AxisName, any_of
from salera_optax._response import Action, ResponseState
from salera_optax._scalars import Scalars, named


class _Decision(NamedTuple):
    """What is decided on a call before anything is done, scalars.

    Attributes:
      settle: bool, whether the last rollback is first to be completed.
      finite: bool, whether loss and gradient are.
      rise: bool, whether the detector has raised an alarm.
      action: what is to be done.
      response: what the guard remembers of its own doings.
    """

    settle: Any = False
    finite: Any = False
    rise: Any = False
    action: Any = Action()
    response: Any = ResponseState()


class Decision(Scalars):
    """The same in two vectors."""

    settle: jax.Array
    finite: jax.Array
    rise: jax.Array
    action: Action
    response: ResponseState
    settle, finite, rise, action, response = named(_Decision())


def _differs(params: Any, snapshot: Any, axis_name: AxisName) -> jax.Array:
    """Whether a number of them differs; by a sum, for which XLA writes nothing down."""

    def differ(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = wide_dtype(x)
        return ~(jnp.sum(jnp.abs(x.astype(wide) - y.astype(wide))) == 0)

    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(snapshot), strict=True)
    return any_of((differ(x, y) for x, y in pairs), axis_name)


def deciding(
    detector: Detector, factor: ArrayLike, rollback: bool, axis_name: AxisName
) -> Callable[..., tuple[Decision, Any]]:
    """The function that decides; its arguments are those of `page_hinkley`.

    Returns:
      A function of whether the last call went back, of parameters and snapshot, of the states of
      the response and of the detector, and of the loss and the norm of the gradient. It returns
      the decision, and the next state of the detector.
    """

    def responded(response: ResponseState, verdict: Verdict) -> tuple[Action, ResponseState]:
        share = jnp.asarray(factor, jnp.result_type(response.scale))
        return _response.respond(response, verdict, share, rollback)

    # In branches, so that XLA works the decision out once, and not in every kernel that asks.
    def looked(
        went_back: jax.Array,
        params: Any,
        snapshot: Any,
        response: ResponseState,
        state: Any,
        *values: jax.Array,
    ) -> tuple[Decision, Any]:
        del went_back, params, snapshot
        verdict, observed = detector.observe(state, *values)
        action, after = responded(response, verdict)
        decision = Decision.of(_Decision(False, True, verdict.alarm, action, after))
        return decision, jax.tree.map(like, observed, state)

    def looked_twice(
        went_back: jax.Array,
        params: Any,
        snapshot: Any,
        response: ResponseState,
        state: Any,
        *values: jax.Array,
    ) -> tuple[Decision, Any]:
        """Where a number is not finite, or the last call went back."""
        finite = jnp.isfinite(values[0]) & jnp.isfinite(values[1])
        verdict, observed = detector.observe(state, *(jnp.where(finite, v, 1) for v in values))
        verdict = Verdict(verdict.quiet & finite, verdict.doubt | ~finite, verdict.alarm & finite)
        action, after = responded(response, verdict)
        decision = Decision.of(_Decision(False, finite, verdict.alarm, action, after))
        observed = select(finite, jax.tree.map(like, observed, state), state)
        if not rollback:
            return decision, observed
        # Adding the difference may miss the snapshot by a rounding error. Then this call adds what
        # is missing, and neither takes a step nor looks at the loss.
        settle = went_back & _differs(params, snapshot, axis_name)
        waits = Decision.of(_Decision(True, True, False, Action(hold=True), response))
        return select(settle, waits, decision), select(settle, state, observed)

    def decide(
        went_back: jax.Array,
        params: Any,
        snapshot: Any,
        response: ResponseState,
        state: Any,
        loss: jax.Array,
        norm: jax.Array,
    ) -> tuple[Decision, Any]:
        usual = jnp.isfinite(loss) & jnp.isfinite(norm) & ~went_back
        given = (went_back, params, snapshot, response, state, loss, norm)
        decision, observed = jax.lax.cond(usual, looked, looked_twice, *given)
        return decision, observed

    return decide
