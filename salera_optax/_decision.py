"""What the guard decides on a call, before anything is done: from loss and norm to an action."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax import _response
from salera_optax._arrays import folded, like, select, wide_dtype
from salera_optax._detectors import Detector, Verdict
from salera_optax._devices import AxisName, any_of
from salera_optax._guard_state import GuardScalars
from salera_optax._response import Action, ResponseState
from salera_optax._scalars import Scalars, named
from salera_optax._validation import check_same_tree


class _Decision(NamedTuple):
    """What is decided on a call before anything is done, scalars.

    Attributes:
      finish: bool, whether the last rollback is first to be completed.
      finite: bool, whether loss and gradient are.
      rise: bool, whether the detector has raised an alarm.
      action: what is to be done.
      response: what the guard remembers of its own doings.
    """

    finish: Any = False
    finite: Any = False
    rise: Any = False
    action: Any = Action()
    response: Any = ResponseState()


class Decision(Scalars):
    """The same in two vectors."""

    finish, finite, rise, action, response = named(_Decision())


def _differs(params: Any, snapshot: Any, axis_name: AxisName) -> jax.Array:
    """Whether a number of them differs; not in a leaf where both hold the same infinity.

    By a sum, for which XLA writes nothing down. Beside an infinity it is NaN, and the rounding of
    the rollback stays.
    """

    def difference(leaf: jax.Array, saved: jax.Array) -> jax.Array:
        x, y = folded(leaf, saved)
        wide = wide_dtype(x)
        return jnp.sum(jnp.abs(x.astype(wide) - y.astype(wide)))

    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(snapshot), strict=True)
    return any_of(lambda sums: sums > 0, (difference(x, y) for x, y in pairs), axis_name)


def _judged(
    detector: Detector, state: Any, loss: jax.Array, norm: jax.Array
) -> tuple[jax.Array, Verdict, Any]:
    """Whether loss and norm are finite, the verdict, and the next state of the detector."""
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    said, observed = detector.observe(state, jnp.where(finite, loss, 1), jnp.where(finite, norm, 1))
    check_same_tree("page_hinkley", "the state that detector.observe returns", observed, state)
    quiet, doubt, alarm, risen = (jnp.asarray(each, bool) for each in Verdict(*said))
    verdict = Verdict(quiet & finite, doubt | ~finite, alarm & finite, risen)
    return finite, verdict, select(finite, jax.tree.map(like, observed, state), state)


def deciding(
    detector: Detector, factor: ArrayLike, rollback: bool, axis_name: AxisName
) -> Callable[..., tuple[Decision, Any]]:
    """Makes the function that decides, from arguments of `page_hinkley`.

    Returns:
      A function of parameters and snapshot, which are None where a rollback needs no completing, of
      the scalars of the guard and the state of the detector, and of the loss and the norm of the
      gradient. It returns the decision, and the next state of the detector.
    """

    def missed(params: Any, snapshot: Any, went_back: jax.Array) -> jax.Array:
        return _differs(params, snapshot, axis_name) & went_back

    def at_rest(params: Any, snapshot: Any, went_back: jax.Array) -> jax.Array:
        del params, snapshot
        return went_back  # which is false

    def now(scalars: GuardScalars, state: Any, *values: jax.Array) -> tuple[Decision, Any]:
        finite, verdict, observed = _judged(detector, state, *values)
        response = scalars.response
        share = jnp.asarray(factor, jnp.result_type(response.scale))
        action, after = _response.respond(response, verdict, share, rollback=rollback)
        return Decision.of(_Decision(False, finite, verdict.alarm, action, after)), observed

    def later(scalars: GuardScalars, state: Any, *values: jax.Array) -> tuple[Decision, Any]:
        del values
        return Decision.of(_Decision(True, True, False, Action(hold=True), scalars.response)), state

    def decide(
        params: Any, snapshot: Any, scalars: GuardScalars, *given: Any
    ) -> tuple[Decision, Any]:
        # Adding the difference may miss the snapshot by a rounding error. Then this call adds what
        # is missing, and neither takes a step nor looks at the loss.
        if params is None:  # false, but XLA must not know it
            finish = jax.lax.optimization_barrier(jnp.zeros((), bool))
        else:
            went_back = scalars.action.go_back
            finish = jax.lax.cond(went_back, missed, at_rest, params, snapshot, went_back)
        # Without branches XLA works the decision out anew in every kernel that asks for it.
        decision, observed = jax.lax.cond(finish, later, now, scalars, *given)
        return decision, observed

    return decide
