"""The state of a guard."""

from typing import Any, NamedTuple

import jax

from salera_optax._history import History
from salera_optax._response import Action, ResponseState
from salera_optax._scalars import Scalars, named


class GuardFields(NamedTuple):
    """The scalars of a guard; see `PageHinkleyState`."""

    step: Any = 0
    alarms: Any = 0
    holds: Any = 0
    nonfinite: Any = 0
    action: Any = Action()
    response: Any = ResponseState()


class GuardScalars(Scalars):
    """The same in two vectors."""

    step: jax.Array
    alarms: jax.Array
    holds: jax.Array
    nonfinite: jax.Array
    action: Action
    response: ResponseState
    step, alarms, holds, nonfinite, action, response = named(GuardFields())


class PageHinkleyState(NamedTuple):
    """State of `page_hinkley`.

    Attributes:
      scalars: the counts and what else is a scalar, in two vectors. Properties name them, and
        `metrics` finds them in any state; `optax.tree.get` does not.
      detector: the state of the detector.
      history: the last alarms and held calls, which `events` reads.
      snapshot: the last parameters that nothing spoke against (None without rollback).
      inner_state: state of the guarded optimizer.
    """

    scalars: GuardScalars
    detector: Any
    history: History
    snapshot: Any
    inner_state: Any

    @property
    def step(self) -> jax.Array:
        """Int32 scalar, calls so far."""
        return self.scalars.step

    @property
    def alarms(self) -> jax.Array:
        """Int32 scalar, alarms so far."""
        return self.scalars.alarms

    @property
    def holds(self) -> jax.Array:
        """Int32 scalar, calls so far that took no step, alarms among them."""
        return self.scalars.holds

    @property
    def nonfinite(self) -> jax.Array:
        """Int32 scalar, calls so far whose loss, gradient or update was not finite."""
        return self.scalars.nonfinite

    @property
    def action(self) -> Action:
        """What the last call did."""
        return self.scalars.action

    @property
    def response(self) -> ResponseState:
        """What alarms have left of the steps, and where the guard stands."""
        return self.scalars.response

    @property
    def alarm(self) -> jax.Array:
        """Bool scalar, whether the last call was an alarm."""
        alarm: jax.Array = self.action.alarm
        return alarm

    @property
    def scale(self) -> jax.Array:
        """What alarms have left of the steps, in [2^-50, 1]."""
        scale: jax.Array = self.response.scale
        return scale

    def acted(self, action: Action) -> "PageHinkleyState":
        """The same state, as if the last call had done this."""
        fields = {name: getattr(self.scalars, name) for name in GuardFields._fields}
        return self._replace(scalars=GuardScalars.of(GuardFields(**fields | {"action": action})))
