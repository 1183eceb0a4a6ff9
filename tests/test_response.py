"""What the guard does about verdicts, on scalars, without parameters."""

import jax
import jax.numpy as jnp

from salera_optax import Verdict
from salera_optax._response import (
    DOUBLINGS,
    GROWTH_INTERVAL,
    LEAST_SCALE,
    PATIENCE,
    PATIENCE_ON_TRIAL,
    ResponseState,
    respond,
)
from salera_optax._scalars import initial

KINDS = {
    "quiet": Verdict(jnp.bool_(True), jnp.bool_(False), jnp.bool_(False)),
    "rising": Verdict(jnp.bool_(False), jnp.bool_(False), jnp.bool_(False)),
    "risen": Verdict(jnp.bool_(True), jnp.bool_(False), jnp.bool_(False), jnp.bool_(True)),
    "doubt": Verdict(jnp.bool_(False), jnp.bool_(True), jnp.bool_(False)),
    "alarm": Verdict(jnp.bool_(False), jnp.bool_(False), jnp.bool_(True)),
}


respond = jax.jit(respond, static_argnums=3)


def answers(kinds, factor=0.5, rollback=True):
    """What is done in every call, as a word, and the scale behind it."""
    state, done = initial(ResponseState(), jnp.float32), []
    for kind in kinds:
        action, state = respond(state, KINDS[kind], factor, rollback)
        word = (
            "back"
            if action.go_back
            else "alarm"
            if action.alarm
            else "hold"
            if action.hold
            else "renew"
            if action.renew
            else "step"
        )
        assert action.hold or not (action.alarm | action.go_back)
        done.append(word)
    return done, float(state.scale)


def test_a_doubt_is_held_and_nothing_shrinks():
    assert answers(["quiet", "doubt", "quiet"]) == (["renew", "hold", "renew"], 1.0)


def test_the_snapshot_stays_while_the_loss_rises():
    done, _ = answers(["quiet", "rising", "rising", "quiet"])
    assert done == ["renew", "step", "step", "renew"]


def test_the_snapshot_stays_at_a_quiet_loss_where_the_level_has_risen():
    done, _ = answers(["quiet", "risen", "risen", "quiet", "risen", "alarm", "risen", "risen"])
    assert done == ["renew", "step", "step", "renew", "step", "back", "renew", "step"]


def test_an_alarm_after_a_step_goes_back_and_shrinks_for_good():
    assert answers(["quiet", "alarm", *["quiet"] * 5000])[1] == 0.5
    done, scale = answers(["quiet", "alarm", "quiet", "quiet"])
    assert done == ["renew", "back", "renew", "renew"]
    assert scale == 0.5


def test_behind_a_rollback_it_waits_until_a_loss_is_quiet():
    done, scale = answers(["quiet", "alarm", "rising", "rising", "quiet"])
    assert done == ["renew", "back", "hold", "hold", "renew"]
    assert scale == 0.5


def test_a_doubt_at_the_snapshot_shows_that_the_data_were_to_blame():
    done, scale = answers(["quiet", "alarm", "doubt", "rising", "quiet", "quiet"])
    assert done == ["renew", "back", "hold", "hold", "renew", "renew"]
    assert scale == 1.0
    _, scale = answers(["quiet", "alarm", "doubt", "quiet", "alarm", "quiet"])
    assert scale == 0.5, "and the next alarm is judged anew"


def test_an_alarm_at_parameters_that_were_good_gives_back_what_was_shrunk():
    done, scale = answers(["quiet", "alarm", "doubt", "alarm", "quiet"])
    assert done == ["renew", "back", "hold", "alarm", "renew"]
    assert scale == 1.0


def test_two_alarms_with_steps_between_shrink_twice():
    done, scale = answers(["quiet", "alarm", "quiet", "alarm"])
    assert done == ["renew", "back", "renew", "back"]
    assert scale == 0.25


def test_doubts_in_a_row_are_an_alarm_and_at_the_snapshot_the_wait_is_longer():
    done, scale = answers(["quiet", *["doubt"] * PATIENCE])
    assert done == ["renew", *["hold"] * (PATIENCE - 1), "back"]
    assert scale == 0.5
    done, scale = answers(["quiet", *["doubt"] * (PATIENCE + PATIENCE_ON_TRIAL)])
    assert done[PATIENCE + 1 :] == [*["hold"] * (PATIENCE_ON_TRIAL - 1), "alarm"]
    assert scale == 1.0


def test_doubts_for_ever_are_no_alarms_once_there_is_nothing_to_take_back():
    done, scale = answers(["doubt"] * 200)
    assert done == ["hold"] * 200
    done, scale = answers(["quiet", *["doubt"] * 500])
    assert done.count("alarm") + done.count("back") == 2
    assert scale == 1.0


def test_without_rollback_an_alarm_shrinks_once_until_the_next_step():
    done, scale = answers(["quiet", "alarm", "doubt", "alarm", "alarm"], rollback=False)
    assert done == ["renew", "alarm", "hold", "alarm", "alarm"]
    assert scale == 0.5


def test_the_first_step_of_all_makes_a_snapshot_even_if_the_loss_is_rising():
    assert answers(["rising", "rising"])[0] == ["renew", "step"]


def test_the_scale_never_reaches_zero():
    _, scale = answers(["quiet", "alarm"] * 80)
    assert scale == LEAST_SCALE


def test_a_factor_of_one_only_goes_back():
    assert answers(["quiet", "alarm", "quiet"], factor=1.0)[1] == 1.0


# The data are bad for so long that they are to blame, and then two alarms after steps.
BLAMED = ["quiet", "alarm", *["doubt"] * PATIENCE, "quiet", "alarm", "quiet", "alarm"]


def test_what_shrinks_after_the_data_were_to_blame_grows_back_and_no_further():
    assert answers(BLAMED)[1] == 0.25
    assert answers([*BLAMED, *["quiet"] * (GROWTH_INTERVAL - 1)])[1] == 0.25
    assert answers([*BLAMED, *["quiet"] * GROWTH_INTERVAL])[1] == 0.5
    assert answers([*BLAMED, *["quiet"] * 2 * GROWTH_INTERVAL])[1] == 1.0
    # An alarm before that was the fault of the steps.
    before = ["quiet", "alarm"]
    assert answers([*before, *BLAMED, *["quiet"] * 500])[1] == 0.5
    # Back at where they were, and calm there, the steps are to blame for what comes then.
    assert answers([*BLAMED, *["quiet"] * 500, "alarm", *["quiet"] * 500])[1] == 0.5
    # Also where nothing has shrunk meanwhile; but not too soon, for the bad data may go on.
    data = BLAMED[:-3]
    assert answers([*data, *["quiet"] * 500, "alarm", *["quiet"] * 500])[1] == 0.5
    soon = ["quiet"] * (GROWTH_INTERVAL + 2)
    assert answers([*data, *soon, "alarm", *["quiet"] * 500])[1] == 1.0


def test_a_held_call_neither_hastens_nor_ends_the_growth():
    calm = ["quiet", "doubt"] * GROWTH_INTERVAL
    assert answers([*BLAMED, *calm[:-2]])[1] == 0.25
    assert answers([*BLAMED, *calm])[1] == 0.5


def test_a_few_bad_minibatches_behind_an_alarm_let_nothing_grow():
    few = ["quiet", "alarm", *["doubt"] * (PATIENCE - 1), "quiet", "alarm"]
    assert answers([*few, *["quiet"] * 500])[1] == 0.5


def test_growth_that_ends_in_an_alarm_waits_twice_as_long_and_never_for_ever():
    kinds, expected = list(BLAMED), {}
    for failure in range(DOUBLINGS + 3):
        wait = GROWTH_INTERVAL * 2 ** min(failure, DOUBLINGS)
        kinds += ["quiet"] * (wait - 1)
        expected[len(kinds)] = 0.25
        kinds += ["quiet"]
        expected[len(kinds)] = 0.5
        kinds += ["alarm"]
        expected[len(kinds)] = 0.25
    state = initial(ResponseState(), jnp.float32)
    for count, kind in enumerate(kinds, 1):
        _, state = respond(state, KINDS[kind], 0.5, True)
        if count in expected:
            assert state.scale == expected[count], count
    # The last one to grow back counts as well.
    once = [*BLAMED[:-1], *["quiet"] * GROWTH_INTERVAL, "alarm"]
    assert answers(once)[1] == 0.5
    assert answers([*once, *["quiet"] * (2 * GROWTH_INTERVAL - 1)])[1] == 0.5
    assert answers([*once, *["quiet"] * 2 * GROWTH_INTERVAL])[1] == 1.0


def test_the_memory_starts_over_when_the_steps_are_found_to_blame():
    def forgets(kinds, rollback=True):
        state, found = initial(ResponseState(), jnp.float32), []
        for kind in kinds:
            action, state = respond(state, KINDS[kind], 0.5, rollback)
            found.append(bool(action.forget))
        return found

    assert forgets(["quiet", "alarm", "rising", "quiet", "quiet"]) == [False] * 3 + [True, False]
    assert not any(forgets(["quiet", "alarm", "doubt", "quiet", "quiet"])), "the data were"
    assert not any(forgets(["quiet", "alarm", "alarm", "quiet"])), "they have changed"
    assert forgets(["quiet", "alarm", "quiet"], rollback=False) == [False, True, False]
