"""The paper's space of experiments, in slices."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from benchmarks.optimizers import OPTIMIZERS
from benchmarks.run import Run, ordered

_DECADES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HALF_DECADES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)

Settings = dict[str, tuple[Any, ...]]


class Slice(NamedTuple):
    """A part of the space of experiments.

    Attributes:
      learning_rates: the initial learning rates.
      axes: the other hyperparameters of each optimizer, all combinations of which are run; those
        not named have the optimizer's default.
    """

    learning_rates: tuple[float, ...]
    axes: dict[str, Settings]


def _alera(alphas: tuple[float, ...], cs: tuple[float, ...], **others: Any) -> Settings:
    """ALERA as in the paper: one rate per layer, and C in units of the authors' deviation."""
    axes: Settings = {"alpha": alphas, "gain": cs, "std": ("authors",)}
    return axes | {name: (value,) for name, value in others.items()}


def _paper(alera: Callable[[float, float], tuple[Any, Any]]) -> dict[str, Settings]:
    """The family of ALERA, each with the alphas and the Cs for its robust setting."""
    layers: dict[str, Any] = {"groups": "module"}
    published = _alera(*alera(0.01, 3e-6))
    del published["std"]
    return {
        "paper-alera": _alera(*alera(0.01, 3e-6), **layers),
        "published-salera": published,
        "paper-salera": _alera(*alera(0.01, 3e-6), detector="robust", **layers),
        "spalera": _alera(*alera(0.1, 3e-8), detector="robust"),
        "paper-ag_adam": _alera(*alera(0.001, 3e-6), **layers),
    }


_ALL = ((0.001, 0.01, 0.1, 0.25), (3e-8, 3e-7, 3e-6, 3e-5))
_GAINS = (2.12e-6, 6.7e-6, 2.12e-5, 6.7e-5)
_PEERS: dict[str, Settings] = {"nag": {"momentum": (0.9,)}, "adagrad": {}, "adam": {}}

SLICES = {
    "paper": Slice(
        _DECADES,
        {
            **_paper(lambda alpha, c: _ALL),
            "nag": {"momentum": (0.8, 0.9, 0.99, 0.999)},
            "adagrad": {},
            "adam": {"b1": (0.8, 0.9, 0.99), "b2": (0.99, 0.999, 0.9999)},
        },
    ),
    "robust": Slice(_DECADES, {**_paper(lambda alpha, c: ((alpha,), (c,))), **_PEERS}),
    "defaults": Slice(
        _HALF_DECADES,
        {name: {} for name, recipe in OPTIMIZERS.items() if not recipe.guarded},
    ),
    "gain": Slice(
        _HALF_DECADES,
        {
            "paper-salera": {"gain": _GAINS},
            "paper-alera": {"gain": _GAINS},
            "spalera": {"gain": (2.11e-8, 2.11e-7, 2.11e-6, 2.11e-5)},
        },
    ),
    "divisor": Slice(
        (0.1, 1.0),
        {
            "paper-salera": _alera(
                (0.01, 0.1, 0.25), (3e-6, 3e-5), detector="robust", groups="module"
            )
            | {"factor": (1 / 2, 1 / 3, 1 / 4, 1 / 5)}
        },
    ),
}
"""By name: the paper's whole grid; the settings that it calls robust, and its rivals'; every
optimizer at its defaults, as a user would first try it; the defaults with larger and larger gains;
and the settings that explode most often, with several factors of an alarm."""


def space(
    slice_name: str,
    dataset: str,
    model: str,
    *,
    minibatch_ratio: float,
    epochs: int,
    seeds: int,
    names: Sequence[str] = (),
    learning_rates: Sequence[float] = (),
) -> Iterator[Run]:
    """All runs of a slice, or those of some optimizers and initial learning rates.

    Args:
      slice_name: one of `SLICES`.
      dataset: one of `data.DATASETS`.
      model: one of `models.MODELS`.
      minibatch_ratio: size of a minibatch over that of the training set.
      epochs: of every run.
      seeds: the seeds are those from 0 on, so many.
      names: some of the optimizers of the slice; none is all.
      learning_rates: in place of those of the slice; none is the slice's.

    Yields:
      The runs.

    Raises:
      ValueError: if an optimizer does not belong to the slice.
    """
    chosen = SLICES[slice_name]
    for name in names or chosen.axes:
        if name not in chosen.axes:
            raise ValueError(
                f"the slice {slice_name} has no {name}; it has {', '.join(chosen.axes)}."
            )
        axes = chosen.axes[name] | {"learning_rate": learning_rates or chosen.learning_rates}
        for values in product(*axes.values()):
            hyperparameters = ordered(dict(zip(axes, values, strict=True)))
            for seed in range(seeds):
                yield Run(dataset, model, minibatch_ratio, epochs, name, hyperparameters, seed)
