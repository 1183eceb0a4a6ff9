"""Groups that are no labels, or do not cover the tree, are shown."""

import re
from collections.abc import Callable
from typing import Any

import jax
import pytest
from factories import GROUPED_FACTORIES, each, params

import salera_optax


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize("wrong", ["layer", "by_module", ""], ids=repr)
def test_groups_that_are_another_string_than_all_are_shown(
    make: Callable[..., Any], wrong: str
) -> None:
    with pytest.raises(ValueError, match=rf"groups must be None .*'all'.*got {wrong!r}"):
        make(groups=wrong)


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize(
    "labels",
    [
        {"Dense_0": "first"},
        {"Dense_0": "first", "Dense_1": "second", "Dense_2": "third"},
        {"Dense_0": "first", "Dense_1": {"kernel": "second"}},
        {"Dense_0": "first", "Dense_1": None},
        ("first", "second"),
        {"Dense_0": {"kernel": {"deeper": "first"}, "bias": "second"}, "Dense_1": "third"},
    ],
    ids=["too_few", "too_many", "leaf_missing", "none", "another_container", "too_deep"],
)
def test_labels_that_do_not_cover_the_tree_are_shown(make: Callable[..., Any], labels: Any) -> None:
    match = rf"groups must give a label to every leaf.*{re.escape(repr(labels))}"
    with pytest.raises(ValueError, match=match):
        make(groups=labels).init(params())
    with pytest.raises(ValueError, match=match):
        make(groups=lambda tree: labels).init(params())
    with pytest.raises(ValueError, match=match):
        jax.jit(make(groups=labels).init)(params())


@each(GROUPED_FACTORIES)
@pytest.mark.parametrize("label", [1, 1.5, True, b"first"], ids=repr)
def test_label_of_another_kind_than_a_string_is_shown(make: Callable[..., Any], label: Any) -> None:
    match = rf"groups must .*strings?.*got {re.escape(repr(label))}"
    with pytest.raises(TypeError, match=match):
        make(groups={"Dense_0": "first", "Dense_1": label}).init(params())
    with pytest.raises(TypeError, match=match):
        make(groups=label).init(params())


def test_groups_that_are_not_those_of_the_state_are_shown() -> None:
    tree = params()
    state = salera_optax.scale_by_alera().init(tree)
    other = salera_optax.scale_by_alera(groups=salera_optax.by_module)
    with pytest.raises(ValueError, match=r"init saw, Dense_0/bias, .*, got Dense_0, Dense_1\."):
        other.update(tree, state)


def test_a_guard_names_a_group_that_its_state_lacks() -> None:
    tree = params()
    state = salera_optax.page_hinkley(salera_optax.scale_by_alera()).init(tree)
    other = salera_optax.page_hinkley(salera_optax.scale_by_alera(groups=salera_optax.by_module))
    with pytest.raises(ValueError, match=r"inner_state .*'groups/Dense_0' is missing"):
        other.update(tree, state, tree, value=1.0)
