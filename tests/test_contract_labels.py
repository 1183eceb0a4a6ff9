"""Labels given as a tree are the same as from a function, wherever the optimizer stands."""

from typing import Any

import optax
import pytest
from contract_cases import SGD, Case
from contract_runs import FIRST_LAYER, assert_equal, first_layer, parameters, run

import salera_optax

LABELS = {"Dense_0": "layer", "temperature": "rest"}


def test_labels_given_as_a_tree_are_the_same_as_from_a_function() -> None:
    case = Case("labels", salera_optax.salera, {**SGD, "groups": LABELS})
    assert_equal(run(case, case.build()), run(case, case.build(groups=lambda _: LABELS)))


def test_labels_given_as_a_tree_work_under_a_mask_and_in_a_partition() -> None:
    case = Case("labels", salera_optax.salera, {**SGD, "groups": LABELS})
    alone = run(case, case.build(groups={"Dense_0": "layer"}), first_layer)
    masked = run(case, optax.masked(case.build(), FIRST_LAYER))
    assert_equal(first_layer(masked.updates), alone.updates)
    transforms: dict[Any, Any] = {"ours": case.build(), "theirs": optax.sgd(0.5)}
    shared = run(case, optax.partition(transforms, {"Dense_0": "ours", "temperature": "theirs"}))
    assert_equal(first_layer(shared.updates), alone.updates)


@pytest.mark.parametrize(
    "groups", [LABELS, "all", lambda _: LABELS], ids=["tree", "all", "function"]
)
def test_tree_map_params_works_whatever_the_labels(groups: Any) -> None:
    tx = salera_optax.salera(0.1, groups=groups)
    state = tx.init(parameters())
    assert_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)
