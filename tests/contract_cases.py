"""The optimizers that keep the contract of Optax's own suites, in one table.

A case brings its factory, its arguments and the extra arguments its update needs, so no test of
the contract asks which optimizer it is looking at. The promises, in `test_contract_*.py`, are those
of Optax's `_common_test.py`, `alias_test.py`, `sharding_test.py`, `_masking_test.py`,
`_accumulation_test.py` and `_inject_test.py`, and some of this package.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
import pytest

import salera_optax

Tree = Any


def the_loss(value: Any) -> dict[str, Any]:
    """What an optimizer that watches the loss needs besides the gradient."""
    return {"value": value}


def nothing(value: Any) -> dict[str, Any]:
    """What an optimizer that needs only the gradient is given."""
    del value
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One optimizer.

    Attributes:
      name: what pytest calls it.
      make: its factory.
      arguments: with which the factory is called.
      extra: from the loss to the extra arguments of `update`.
      static: arguments that are functions but no schedules.
      idle: numbers that do nothing beside the other arguments.
      valley: other arguments with which it comes down Rosenbrock's valley, None where it does not.
    """

    name: str
    make: Callable[..., optax.GradientTransformationExtraArgs]
    arguments: Mapping[str, Any]
    extra: Callable[[Any], dict[str, Any]] = the_loss
    static: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    valley: Mapping[str, Any] | None = None

    def build(self, **changes: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer, with some of its arguments changed."""
        return self.make(**{**self.arguments, **changes})

    def update(
        self, tx: Any, gradients: Tree, state: Any, params: Tree, value: Any
    ) -> tuple[Tree, Any]:
        """One update with the extra arguments that this case needs."""
        updates, new_state = tx.update(gradients, state, params, **self.extra(value))
        return updates, new_state


def by_rank(params: Tree) -> Tree:
    """Label every leaf by its number of axes: a label function as a user writes one."""
    return jax.tree.map(lambda leaf: f"rank {np.ndim(leaf)}", params)


def matrices(params: Tree) -> Tree:
    """The mask of weight decay in use everywhere: matrices decay, biases do not."""
    return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, params)


def around_momentum(
    learning_rate: Any, alpha: Any = 0.01, gain: Any = 0.01, decay: Any = 0.9, eps: Any = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """ALERA with a chain as its `base`, the part as a user composes it."""
    base = optax.chain(optax.clip_by_global_norm(1e3), optax.trace(decay))
    return optax.chain(
        salera_optax.scale_by_alera(alpha, salera_optax.ratio(gain), base=base, eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def parameterwise(
    learning_rate: Any, alpha: Any = 0.1, gain: Any = 3e-8, eps: Any = 1e-6
) -> optax.GradientTransformationExtraArgs:
    """Parameter-wise ALERA without the guard."""
    return optax.chain(
        salera_optax.scale_by_parameterwise_alera(alpha, salera_optax.score(gain), eps=eps),
        optax.scale_by_learning_rate(learning_rate),
    )


def guarded_sgd(
    learning_rate: Any, smoothing: Any = 0.1, threshold: Any = 0.1, factor: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Plain gradient descent under the guard of the paper."""
    detector = salera_optax.published(smoothing, threshold)
    return salera_optax.page_hinkley(optax.sgd(learning_rate), detector, factor=factor)


def guarded_momentum(
    learning_rate: Any, momentum: Any = 0.9, factor: Any = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Momentum under the guard."""
    return salera_optax.page_hinkley(optax.sgd(learning_rate, momentum=momentum), factor=factor)


def guarded_adam(learning_rate: Any, factor: Any = 0.5) -> optax.GradientTransformationExtraArgs:
    """A chain under the guard: a clip, then Adam."""
    return salera_optax.page_hinkley(
        optax.chain(optax.clip_by_global_norm(1e3), optax.adam(learning_rate)), factor=factor
    )


def guarded_rmsprop(learning_rate: Any, factor: Any = 0.5) -> optax.GradientTransformationExtraArgs:
    """RMSProp under the guard."""
    return salera_optax.page_hinkley(optax.rmsprop(learning_rate), factor=factor)


SGD = {"learning_rate": 0.05}
MOMENTUM = {"learning_rate": 0.01, "momentum": 0.9}
BY_MODULE = {"groups": salera_optax.by_module}
DECAY = {"weight_decay": 1e-4, "mask": matrices}
SLOWER = {"learning_rate": 1e-3}


# ALERA on the gradient has no `valley`, nor has Adam's without a guard: the rates grow all the way
# down until the steps are unstable, and what the guard brings back wanders about the minimum.
CASES = (
    Case("alera", salera_optax.alera, SGD, nothing),
    Case("alera_by_module", salera_optax.alera, {**SGD, **BY_MODULE}, nothing, ("groups",)),
    Case(
        "alera_by_label_momentum",
        salera_optax.alera,
        {**MOMENTUM, "groups": by_rank},
        nothing,
        ("groups",),
    ),
    Case("alera_one_group", salera_optax.alera, {**SGD, "groups": "all"}, nothing),
    Case("alera_nesterov", salera_optax.alera, {**MOMENTUM, "nesterov": True}, nothing),
    Case("alera_weight_decay", salera_optax.alera, {**SGD, **DECAY}, nothing, ("mask",)),
    Case("scale_by_alera", around_momentum, {"learning_rate": 0.01}, nothing),
    Case("scale_by_parameterwise_alera", parameterwise, SGD, nothing),
    Case("ag_adam", salera_optax.ag_adam, SGD, nothing),
    Case("salera", salera_optax.salera, SGD),
    Case(
        "salera_by_module_momentum_weight_decay",
        salera_optax.salera,
        {**MOMENTUM, **BY_MODULE, **DECAY},
        static=("groups", "mask"),
    ),
    Case("salera_without_rollback", salera_optax.salera, {**SGD, "rollback": False}),
    Case(
        "salera_of_the_authors",
        salera_optax.salera,
        {
            **SGD,
            "law": salera_optax.score(3e-6, std="authors"),
            "detector": salera_optax.published(),
            "reset_path": False,
        },
        static=("law", "detector"),
    ),
    Case("salera_adamw", salera_optax.salera_adamw, {"learning_rate": 0.01}, valley={}),
    Case("spalera", salera_optax.spalera, SGD, valley=SLOWER),
    Case("page_hinkley_sgd_published", guarded_sgd, SGD),
    Case("page_hinkley_momentum", guarded_momentum, MOMENTUM, valley=SLOWER),
    Case("page_hinkley_adam", guarded_adam, SGD, valley={}),
    Case("page_hinkley_rmsprop", guarded_rmsprop, {"learning_rate": 0.01}, valley=SLOWER),
)


QUICK = {
    "alera",
    "scale_by_parameterwise_alera",
    "ag_adam",
    "salera",
    "salera_adamw",
    "spalera",
    "page_hinkley_adam",
}


def every(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Cross a property with cases."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.name, marks=[] if case.name in QUICK else pytest.mark.slow)
            for case in cases
        ],
    )


every_case = every(CASES)
