"""One training run, with its progress bar and its log around the pure functions of `training`."""

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import salera_optax
from benchmarks import models, optimizers, training
from benchmarks.data import Dataset, Split
from benchmarks.log import LogWriter
from benchmarks.run import FAILED, Run

_CHUNK = 10  # steps between two looks at the progress
_SHORT = 1000  # so many steps can be too few to learn anything
_RATE = "learning_rate/"

_init = jax.jit(training.init, static_argnums=(0, 1))
_train_chunk = jax.jit(training.train_chunk, static_argnums=(0, 1), donate_argnums=2)
_evaluate = jax.jit(training.evaluate, static_argnums=0)
_epoch_order = jax.jit(training.epoch_order, static_argnums=(2, 3))


class Result(NamedTuple):
    """How a run ended; `nonfinite_since` is the step since which the loss is not finite, if any."""

    test_error: float
    steps: int
    alarms: int
    nonfinite_since: int | None

    @property
    def verdict(self) -> str:
        """Empty when all went well, or what went wrong."""
        if self.nonfinite_since is not None:
            return f"DIVERGED, the loss is not finite since step {self.nonfinite_since}: "
        if self.test_error > FAILED:
            return "FAILED TO LEARN: " if self.steps > _SHORT else "NOTHING LEARNED YET: "
        return ""


class Trainer:
    """A run, ready to start.

    Args:
      config: what to run.
      dataset: the data that the configuration names.

    Raises:
      ValueError, TypeError: if the optimizer refuses one of its hyperparameters.
    """

    log: LogWriter

    def __init__(self, config: Run, dataset: Dataset) -> None:
        self.config, self.chosen = config, dict(config.hyperparameters)
        self.model = models.MODELS[config.model](config.dataset)
        self.train, self.test = (_on_device(split) for split in dataset)
        self.size = dataset.train.labels.size
        self.batch_size = training.batch_size(self.size, config.minibatch_ratio)
        self.steps_per_epoch = self.size // self.batch_size
        self.tx = optimizers.build(
            config.optimizer,
            self.chosen,
            total_steps=config.epochs * self.steps_per_epoch,
            minibatch_ratio=config.minibatch_ratio,
        )
        init_key, self.order_key = training.keys(config.seed)
        self.carry = _init(self.model, self.tx, init_key, self.train)
        self.result = Result(math.nan, steps=0, alarms=0, nonfinite_since=None)

    def run(self, folder: Path) -> Result:
        """Trains for all epochs, under a progress bar, and writes the log into the folder."""
        with LogWriter(folder) as self.log:
            return self._run()

    def _run(self) -> Result:
        self.log.write("config", [self._description()])
        self._end_epoch(0)
        total = self.config.epochs * self.steps_per_epoch
        with tqdm(total=total, unit=" steps", disable=None, leave=False) as bar:
            for epoch in range(1, self.config.epochs + 1):
                order = _epoch_order(self.order_key, epoch, self.size, self.batch_size)
                for start in range(0, self.steps_per_epoch, _CHUNK):
                    loss = self._take_steps(epoch, order[start : start + _CHUNK])
                    bar.update(self.result.steps - bar.n)
                    bar.set_postfix(self._progress(loss))
                self._end_epoch(epoch)
        return self.result

    def _take_steps(self, epoch: int, order: jax.Array) -> float:
        """Takes a step for each row of `order`, and returns the last loss."""
        self.carry, stacked = _train_chunk(self.model, self.tx, self.carry, self.train, order)
        records = jax.device_get(stacked)
        lines = [
            {"step": self.result.steps + row + 1, "epoch": epoch, "loss": loss}
            | self._arranged({key: column[row] for key, column in records.metrics.items()})
            for row, loss in enumerate(records.loss)
        ]
        self.log.write("step", lines)
        since = self.result.nonfinite_since
        for line in lines:
            since = None if np.isfinite(line["loss"]) else since or line["step"]
        self.result = self.result._replace(
            steps=lines[-1]["step"],
            alarms=int(lines[-1].get("alarms", 0)),
            nonfinite_since=since,
        )
        return float(records.loss[-1])

    def _arranged(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of a step as the log has them: the learning rates together, at the end."""
        rates = {
            key.removeprefix(_RATE): rate for key, rate in metrics.items() if key.startswith(_RATE)
        }
        others = {key: value for key, value in metrics.items() if not key.startswith(_RATE)}
        constant = self.chosen["learning_rate"] * metrics.get("scale", 1)
        return {"alarm": False, **others, "learning_rate": rates or {"all": constant}}

    def _end_epoch(self, epoch: int) -> None:
        """Measures both errors, on all the data; epoch 0 is before the first step."""
        averaged = optimizers.OPTIMIZERS[self.config.optimizer].averaged
        variables = training.variables(self.carry, averaged)
        on_train = jax.device_get(_evaluate(self.model, variables, self.train))
        on_test = jax.device_get(_evaluate(self.model, variables, self.test))
        since = self.result.nonfinite_since
        if not np.isfinite(on_train.loss):
            since = since or self.result.steps
        self.result = self.result._replace(test_error=float(on_test.error), nonfinite_since=since)
        line = {
            "epoch": epoch,
            "step": self.result.steps,
            "train_error": on_train.error,
            "test_error": on_test.error,
            "train_loss": on_train.loss,
            "test_loss": on_test.loss,
            "alarms": self.result.alarms,
        }
        self.log.write("epoch", [line])

    def _progress(self, loss: float) -> dict[str, str]:
        return {
            "loss": f"{loss:.3g}",
            "test error": f"{100 * self.result.test_error:.2f} %",
            "alarms": str(self.result.alarms),
        }

    def _description(self) -> dict[str, Any]:
        """The first line of the log."""
        packages = {name: version(name) for name in ("jax", "jaxlib", "optax", "flax", "numpy")}
        device = jax.devices()[0]
        return {
            **self.config.record,
            "train_examples": self.size,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.carry.params)),
            "versions": {**packages, "salera_optax": salera_optax.__version__},
            "device": device.device_kind,
        }


def _on_device(split: Split) -> training.Examples:
    return training.Examples(jnp.asarray(split.inputs), jnp.asarray(split.labels))
