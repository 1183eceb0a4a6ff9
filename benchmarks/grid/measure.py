"""Many runs at once: hyperparameters side by side in one program, on all devices.

Runs of one seed go together: they take the same minibatches, which are then gathered once for all.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from benchmarks import models, optimizers, training
from benchmarks.data import Dataset
from benchmarks.grid.results import Results
from benchmarks.run import Run

_AT_ONCE = 8  # on a CPU, which more do not make faster; all are lost when the program is killed
_AT_ONCE_ON_ACCELERATOR = 128  # on each; an optimizer's part of the paper's grid is 96
_MEMORY_USED = 0.8  # of what the device has


class Epoch(NamedTuple):
    """What is kept of an epoch of a run.

    Attributes:
      test_error: share of the test set that is wrong after it.
      test_loss: mean loss of the test set after it.
      train_error: share of its minibatches' examples that were wrong.
      train_loss: mean loss of its minibatches.
      alarms: of the guard in it.
    """

    test_error: jax.Array
    test_loss: jax.Array
    train_error: jax.Array
    train_loss: jax.Array
    alarms: jax.Array


def run_grid(runs: Iterable[Run], dataset: Dataset, results: Results) -> int:
    """Does all of `runs` that have no result yet, under a progress bar.

    Args:
      runs: of one data set.
      dataset: that data set.
      results: where the results go, each as soon as it is known.

    Returns:
      How many had none.
    """
    done = {run for run, _ in results}
    left = sorted(set(runs) - done, key=lambda run: (_program(run), run.hyperparameters))
    mesh = jax.make_mesh((jax.device_count(),), ("runs",), (AxisType.Auto,))
    examples = [
        training.Examples(*jax.device_put(tuple(split), NamedSharding(mesh, P())))
        for split in dataset
    ]
    with (
        jax.default_matmul_precision("float32"),  # a GPU would multiply in TensorFloat-32
        tqdm(total=sum(run.epochs for run in left), unit=" epochs", disable=None) as bar,
    ):
        for _, same in groupby(left, key=_program):
            waiting = list(same)
            while waiting:
                together = _Together(waiting, examples, mesh)
                now, waiting = waiting[: together.size], waiting[together.size :]
                bar.set_postfix_str(f"{now[0].model} {now[0].optimizer}, {len(now)} at once")
                for run, result in zip(now, together.finish(bar), strict=True):
                    results.add(run, result)
    return len(left)


class _Together:
    """The first of `runs`, which share a program: as many as the devices hold side by side."""

    def __init__(
        self, runs: Sequence[Run], examples: Sequence[training.Examples], mesh: Mesh
    ) -> None:
        self.examples, self.epochs = examples, runs[0].epochs
        device, devices = mesh.devices.flat[0], mesh.devices.size
        most = _AT_ONCE if device.platform == "cpu" else _AT_ONCE_ON_ACCELERATOR * devices
        self.size = min(len(runs), most)
        split = NamedSharding(mesh, P("runs"))
        seed = jax.device_put(np.uint32(runs[0].seed), NamedSharding(mesh, P()))
        start, epoch = _functions(runs[0], examples[0].labels.size)
        while True:
            # Every device has the same number of them; a few may be run twice to make it so.
            filled = -(-self.size // devices) * devices
            members = [runs[index % self.size] for index in range(filled)]
            numbers = {
                name: np.array([_numbers(run)[name] for run in members], np.float32)
                for name in _numbers(members[0])
            }
            self.members = (seed, jax.device_put(numbers, split))
            self.start = jax.jit(start, out_shardings=split)
            carry = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
                jax.eval_shape(start, *self.members, examples[0]),
            )
            self.epoch = (
                jax.jit(epoch, donate_argnums=0, out_shardings=split)
                .lower(carry, *self.members, 1, *examples)
                .compile()
            )
            if self.size <= devices or _fits(self.epoch, device):
                return
            self.size //= 2

    def finish(self, bar: Any) -> list[dict[str, Any]]:
        """Runs them to the end."""
        carry = jax.block_until_ready(self.start(*self.members, self.examples[0]))
        records = []
        begin = time.perf_counter()
        for index in range(1, self.epochs + 1):
            carry, record = self.epoch(carry, *self.members, index, *self.examples)
            records.append(jax.device_get(record))
            bar.update(self.size)
        epochs = jax.tree.map(lambda *rows: np.stack(rows, axis=1), *records)
        how = {
            "seconds": round((time.perf_counter() - begin) / self.size, 2),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "precision": "float32",
            "versions": {name: version(name) for name in ("jax", "optax", "salera_optax")},
        }
        return [
            {name: list(rows[member]) for name, rows in epochs._asdict().items()} | how
            for member in range(self.size)
        ]


def _numbers(run: Run) -> dict[str, float]:
    """The hyperparameters that may differ between the runs of one program."""
    return {name: value for name, value in run.hyperparameters if isinstance(value, float)}


def _program(run: Run) -> str:
    """What the runs that go side by side have in common, as text to sort by."""
    numbers = _numbers(run)
    fixed = [(name, name in numbers or value) for name, value in run.hyperparameters]
    return repr((*run[:5], fixed, run.seed))


def _functions(run: Run, size: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How runs like this one start, and how they go through an epoch; over members at once."""
    model = models.MODELS[run.model](run.dataset)
    batch_size = training.batch_size(size, run.minibatch_ratio)
    fixed = {name: value for name, value in run.hyperparameters if name not in _numbers(run)}
    averaged = optimizers.OPTIMIZERS[run.optimizer].averaged

    def optimizer(numbers: dict[str, jax.Array]) -> Any:
        return optimizers.build(
            run.optimizer,
            fixed | numbers,
            total_steps=run.epochs * (size // batch_size),
            minibatch_ratio=run.minibatch_ratio,
        )

    def start(
        seed: jax.Array, numbers: dict[str, jax.Array], examples: training.Examples
    ) -> training.Carry:
        key, _ = training.keys(seed)
        return training.init(model, optimizer(numbers), key, examples)

    def epoch(
        carry: training.Carry,
        seed: jax.Array,
        numbers: dict[str, jax.Array],
        index: int,
        examples: training.Examples,
        test: training.Examples,
    ) -> tuple[training.Carry, Epoch]:
        _, key = training.keys(seed)
        order = training.epoch_order(key, index, size, batch_size)
        carry, records = training.train_chunk(model, optimizer(numbers), carry, examples, order)
        measured = training.evaluate(model, training.variables(carry, averaged), test)
        alarms = jnp.asarray(records.metrics.get("alarm", jnp.zeros((), bool))).sum()
        return carry, Epoch(*measured, records.error.mean(), records.loss.mean(), alarms)

    return (
        jax.vmap(start, in_axes=(None, 0, None)),
        jax.vmap(epoch, in_axes=(0, None, 0, None, None, None)),
    )


def _fits(program: Any, device: Any) -> bool:
    """Whether the device, or the machine where it is a CPU, has the memory for the program."""
    sizes = program.memory_analysis()
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    statistics = device.memory_stats()
    if statistics is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        available = statistics["bytes_limit"]
    return bool(needed < _MEMORY_USED * available)
