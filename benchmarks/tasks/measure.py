"""Runs of one optimizer on one task, from several rates side by side in one program."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import salera_optax
from benchmarks.log import append_line, plain, read_lines
from benchmarks.tasks.contenders import CONTENDERS, Contender
from benchmarks.tasks.suite import TASKS
from benchmarks.tasks.task import Task, outputs_of

RESULTS = "tasks.jsonl"
# Most of the time went into compiling: this halves it, and the runs are as fast.
_COMPILER = {"xla_backend_optimization_level": 1}


class TaskRun(NamedTuple):
    """What defines a run on a task; the rates of one task, optimizer and seed go side by side."""

    task: str
    optimizer: str
    steps: int
    seed: int
    learning_rate: float


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      value: the task's metric on the test part.
      loss: the mean loss there; a run has failed where it is not finite.
      alarms: of the guard, zero without one.
    """

    value: jax.Array
    loss: jax.Array
    alarms: jax.Array


def runs_of(
    tasks: Iterable[str], optimizers: Iterable[str], seeds: int, steps: int | None = None
) -> list[TaskRun]:
    """All runs of some tasks and optimizers; `steps` in place of the tasks' own."""
    names = list(optimizers)
    return [
        TaskRun(task, name, steps or TASKS[task].steps, seed, rate)
        for task in tasks
        for name in names
        for seed in range(seeds)
        for rate in CONTENDERS[name].rates
    ]


def program(task: Task, contender: Contender, steps: int) -> Callable[..., Outcome]:
    """The function that does runs: of rates (n,), a seed, and the two parts of the data."""

    def run(rate: jax.Array, seed: jax.Array, train: Any, test: Any) -> Outcome:
        tx = contender.make(rate, steps)
        init_key, order_key = jax.random.split(jax.random.key(seed))
        params = task.model.init(init_key, train.inputs[:1])["params"]
        order = jax.random.randint(order_key, (steps, task.batch), 0, len(train.labels))

        def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], None]:
            params, opt_state = carry
            inputs, labels = train.inputs[rows], train.labels[rows]
            loss, grads = jax.value_and_grad(
                lambda params: task.loss(outputs_of(task, params, inputs), labels)
            )(params)
            return salera_optax.step(tx, grads, opt_state, params, value=loss), None

        (params, opt_state), _ = jax.lax.scan(step, (params, tx.init(params)), order)
        if contender.averaged is not None:
            params = contender.averaged(opt_state, params)
        outputs = outputs_of(task, params, test.inputs)
        alarms = salera_optax.metrics(opt_state).get("alarms", jnp.zeros((), jnp.int32))
        return Outcome(
            task.metric(outputs, test.labels), task.loss(outputs, test.labels), jnp.asarray(alarms)
        )

    return jax.vmap(run, in_axes=(0, None, None, None))


def run_all(runs: Iterable[TaskRun], folder: Path, workers: int) -> int:
    """Does those of `runs` that have no result in the folder, and says how many they were.

    Each adds a line to `tasks.jsonl` there as soon as those beside it have ended.

    Args:
      runs: what to do.
      folder: of the results.
      workers: programs that run at the same time, each on about one core.
    """
    path = folder / RESULTS
    done = {TaskRun(*(line[field] for field in TaskRun._fields)) for line in read_lines(path)}
    left = [run for run in dict.fromkeys(runs) if run not in done]
    data = {name: jax.device_put(TASKS[name].data()) for name in {run.task for run in left}}
    alike = [list(same) for _, same in groupby(left, key=lambda run: run[:3])]
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(left), unit=" runs", disable=None) as bar,
    ):
        try:
            for ended in as_completed(
                pool.submit(_finished, same, data[same[0].task]) for same in alike
            ):
                for record in ended.result():
                    append_line(path, record)
                    bar.update()
                bar.set_postfix_str(f"{record['task']}, {record['optimizer']}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(left)


def _finished(runs: list[TaskRun], data: Any) -> list[dict[str, Any]]:
    """Does the runs of one program: what defines each, and what is kept of it."""
    task, contender = TASKS[runs[0].task], CONTENDERS[runs[0].optimizer]
    run = jax.jit(program(task, contender, runs[0].steps), compiler_options=_COMPILER)
    records = []
    for seed, together in groupby(runs, key=lambda run: run.seed):
        members = list(together)
        rates = np.array([member.learning_rate for member in members], np.float32)
        start = time.perf_counter()
        outcome = jax.device_get(run(rates, np.uint32(seed), *data))
        how = {"seconds": round((time.perf_counter() - start) / len(members), 2)}
        for index, member in enumerate(members):
            figures = {name: values[index] for name, values in outcome._asdict().items()}
            records.append(plain(member._asdict() | figures | how))
    return records
