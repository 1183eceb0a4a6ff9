"""What the guard does about a verdict, on scalars: hold, step, go back, and shrink the steps.

A bad minibatch and a bad step look alike for one loss. So nothing is taken back at the first doubt:
the guard looks at another minibatch, at the same parameters.

    doubt                  hold: nothing changes. PATIENCE of them in a row are an alarm, behind a
                           rollback PATIENCE_ON_TRIAL.
    alarm after a step     back to the snapshot, and the steps shrink by `factor`. Then it holds
                           until a loss is quiet there: the step was to blame. But if one was
                           in doubt there first, the data were, and the steps get it back.
    alarm without a step   the loss is high, or not finite, at parameters that were good: the data
                           have changed. What the last alarm has shrunk is given back.
    anything else          step. From a quiet loss the parameters before it are the snapshot, unless
                           the loss has slowly risen: then the older ones remain it.
    steps without an alarm what alarms have shrunk since the data were last to blame, for PATIENCE
                           calls or more, grows back: those data alone were too much for the steps.
                           One `factor` in GROWTH_INTERVAL steps, and in twice as many after every
                           alarm that follows such a growth. Two intervals without an alarm and
                           with nothing left to grow back end it: later alarms are for good again.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax._arrays import incremented
from salera_optax._detectors import Verdict

PATIENCE = 9  # calls held in a row that are an alarm
PATIENCE_ON_TRIAL = 40  # the same at the snapshot: so many bad minibatches are waited for
GROWTH_INTERVAL = 25  # steps without an alarm until the steps grow back by one factor
DOUBLINGS = 6  # of that interval, at most
LEAST_SCALE = 2.0**-50  # where the authors' code gives up (1e-15); here the scale stays there


class ResponseState(NamedTuple):
    """What the guard must remember of its own doings, scalars; the defaults before the first call.

    Attributes:
      scale: what alarms have left of the steps, in [2^-50, 1].
      held: int32, calls held in a row.
      ahead: bool, whether a step has been taken since the snapshot.
      on_trial: bool, whether the snapshot was put back and no loss there has been quiet yet.
      doubted: bool, whether a minibatch was in doubt there since.
      due: what the scale is to grow back to, that of the last time when the data were to blame; 0
        where there is nothing to grow back.
      calm: int32, steps since the last alarm.
      failed: int32, how often an alarm came after the scale had grown.
    """

    scale: Any = 1.0
    held: Any = 0
    ahead: Any = False
    on_trial: Any = False
    doubted: Any = False
    due: Any = 0.0
    calm: Any = 0
    failed: Any = 0


class Action(NamedTuple):
    """What the guard does in this call, boolean scalars.

    Attributes:
      alarm: whether it is an alarm.
      hold: whether it takes no step; so it is at an alarm.
      go_back: whether the snapshot is put back.
      renew: whether the parameters given are the new snapshot.
      forget: whether the steps were to blame for the last alarm, and what led to them is to go.
    """

    alarm: Any = False
    hold: Any = False
    go_back: Any = False
    renew: Any = False
    forget: Any = False


@functools.partial(jax.jit, static_argnames="rollback")
def respond(
    state: ResponseState, verdict: Verdict, factor: ArrayLike, rollback: bool
) -> tuple[Action, ResponseState]:
    """Decides on one call.

    Args:
      state: before the call.
      verdict: of the detector; a value that is not finite is a doubt, and neither quiet nor an
        alarm.
      factor: what an alarm after a step multiplies the steps by, in (0, 1].
      rollback: whether there is a snapshot to go back to.
    """
    doubt = verdict.doubt | (state.on_trial & ~verdict.quiet)
    held = jnp.where(doubt | verdict.alarm, incremented(state.held), 0)
    # A long wait calls for an alarm only where there is something to take back.
    patience = jnp.where(state.on_trial, PATIENCE_ON_TRIAL, PATIENCE)
    alarm = verdict.alarm | ((held >= patience) & (state.ahead | state.on_trial))
    hold = doubt | alarm
    guilty = alarm & state.ahead
    forgiven = state.on_trial & (alarm | (verdict.quiet & state.doubted))
    shrunk = jnp.maximum(state.scale * factor, LEAST_SCALE)
    given_back = jnp.minimum(state.scale / factor, 1)
    calm = jnp.where(alarm, 0, jnp.where(hold, state.calm, incremented(state.calm)))
    interval = GROWTH_INTERVAL * jnp.left_shift(1, state.failed)
    grows = ~hold & (state.due > 0) & (jax.lax.rem(calm, interval) == 0)
    too_early = guilty & (state.due > 0) & (state.calm >= interval)
    through = grows & (state.scale == state.due) & (calm >= 2 * interval)
    grown = jnp.minimum(given_back, state.due)
    scale = jnp.where(forgiven, given_back, jnp.where(grows, grown, state.scale))
    scale = jnp.where(guilty, shrunk, scale)
    lasted = forgiven & (state.held >= PATIENCE)
    due = jnp.where(lasted, jnp.maximum(state.due, given_back), state.due)
    action = Action(
        alarm=alarm,
        hold=hold,
        go_back=guilty if rollback else jnp.zeros_like(guilty),
        # Before the first step there is no snapshot yet, and parameters may have been loaded.
        renew=~hold & ((verdict.quiet & ~verdict.risen) | ~state.ahead),
        forget=(state.on_trial & ~hold & ~forgiven) if rollback else guilty,
    )
    return action, ResponseState(
        scale=scale,
        held=jnp.where(alarm, 0, held),
        ahead=~hold | (state.ahead & ~alarm),
        on_trial=action.go_back | (state.on_trial & hold & ~alarm),
        doubted=state.on_trial & ~alarm & (state.doubted | verdict.doubt),
        due=jnp.where(through, 0, due),
        calm=calm,
        failed=jnp.minimum(state.failed + too_early, DOUBLINGS),
    )
