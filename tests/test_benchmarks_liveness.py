"""What the data do costs a guarded run nothing for good: beside its twin without the guard.

SALERA is compared with SGD's twin too.
"""

import numpy as np
import pytest

from benchmarks.faults.liveness import PAIRS, TROUBLES, outcomes

# The rates come down late under the noise of very small minibatches: those runs end near the bound,
# on one side or the other.
NEAR = {
    "salera": {"minibatches of 2"},
    "salera_adamw": {f"minibatches of {rows}" for rows in (1, 2, 4)},
}


def expected(name, trouble):
    near = trouble in NEAR.get(name, ())
    return [pytest.mark.xfail(strict=False)] if near else []


CASES = [
    pytest.param(name, trouble, id=f"{name}-{trouble}", marks=expected(name, trouble))
    for name in PAIRS
    for trouble in TROUBLES
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trouble"), CASES)
def test_a_guarded_run_ends_where_its_twin_does_and_keeps_its_steps(name, trouble):
    index = list(TROUBLES).index(trouble)
    guarded = outcomes(name, True)
    twins = [outcomes(twin, False) for twin in {name, "sgd" if name == "salera" else name}]
    losses = [twin.loss[index] for twin in twins]
    best = np.inf if np.isnan(losses).all() else np.nanmin(losses)  # some explode
    assert guarded.loss[index] <= 2 * best + 0.01
    if trouble != "NaN at 30 %":
        assert guarded.scale[index] >= 0.5
