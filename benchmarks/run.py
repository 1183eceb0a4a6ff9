"""What defines a training run, whether it is run alone or in a grid."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FAILED = 0.8
"""The paper's bound: a run with a larger share of the test set wrong has failed."""


class Run(NamedTuple):
    """What defines a run, and with the software and the device, its every number.

    Attributes:
      dataset: one of `data.DATASETS`.
      model: one of `models.MODELS`.
      minibatch_ratio: size of a minibatch over that of the training set.
      epochs: passes over the training set; a schedule ends with the last.
      optimizer: one of `optimizers.OPTIMIZERS`.
      hyperparameters: name and value of those that are chosen, as `ordered` has them.
      seed: of the initial parameters and of the order of the examples.
    """

    dataset: str
    model: str
    minibatch_ratio: float
    epochs: int
    optimizer: str
    hyperparameters: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def record(self) -> dict[str, Any]:
        """The run as JSON has it: the hyperparameters by name."""
        return self._asdict() | {"hyperparameters": dict(self.hyperparameters)}


def ordered(hyperparameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Names and values in alphabetical order, so that equal ones are equal."""
    return tuple(sorted(hyperparameters.items()))
