"""What a training step costs: time, memory and traffic of every optimizer, beside Adam's."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from optax import contrib
from tqdm import tqdm

import salera_optax
from benchmarks.cost.programs import (
    Program,
    by_update,
    compiled,
    network,
    update_alone,
    whole_step,
    with_alarms,
)

MEASURED: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": lambda: optax.adam(1e-3),
    "sgd": lambda: optax.sgd(1e-3),
    "salera_adamw": salera_optax.salera_adamw,
    "alera": lambda: salera_optax.alera(1e-3),
    "salera": lambda: salera_optax.salera(1e-3),
    "spalera": lambda: salera_optax.spalera(1e-3),
    "ag_adam": salera_optax.ag_adam,
    "page_hinkley(adam)": lambda: salera_optax.page_hinkley(optax.adam(1e-3)),
    "page_hinkley(adam), no rollback": lambda: salera_optax.page_hinkley(
        optax.adam(1e-3), rollback=False
    ),
    "apply_if_finite(adam)": lambda: optax.apply_if_finite(optax.adam(1e-3), 5),
    "clip_by_global_norm, adam": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(1e-3)
    ),
    "prodigy": contrib.prodigy,
}
"""What is measured. All are compared with the first."""

FEW = (
    "adam",
    "salera_adamw",
    "salera",
    "ag_adam",
    "page_hinkley(adam)",
    "apply_if_finite(adam)",
    "clip_by_global_norm, adam",
)
"""What is measured at many sizes and numbers of leaves."""

_SECONDS = 0.02  # least duration of what is timed, for the clock
_WARM_UP = 2  # rounds; after the first, which is slow, the second tells the number of calls

Floats = npt.NDArray[np.float64]


def timed(programs: Mapping[str, Program], rounds: int) -> dict[str, Floats]:
    """Seconds a call of every program, in every round; the programs take turns in each."""
    carries = {name: program.carry for name, program in programs.items()}
    calls = dict.fromkeys(programs, 1)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in tqdm(range(_WARM_UP + rounds), desc="rounds", leave=False, disable=None):
        for name, program in programs.items():
            carry = carries[name]
            start = time.perf_counter()
            for _ in range(calls[name]):
                carry = program.compiled(*carry, *program.rest)
            jax.block_until_ready(carry)
            took = (time.perf_counter() - start) / calls[name]
            carries[name] = carry
            if number < _WARM_UP:
                calls[name] = math.ceil(_SECONDS / took)
            else:
                seconds[name].append(took)
    return {name: np.array(taken) for name, taken in seconds.items()}


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def least_traffic(state: Any, params: Any) -> int:
    """Bytes that an update must move: reads the gradients, reads and writes parameters and state.

    Of a snapshot, what it takes is read anyway: it is only written.
    """
    written = sum(nbytes(guard.snapshot) for guard in _guards(state))
    return 3 * nbytes(params) + 2 * nbytes(state) - written


def _guards(state: Any) -> list[Any]:
    def is_guard(part: Any) -> bool:
        return isinstance(part, salera_optax.PageHinkleyState)

    return [part for part in jax.tree.leaves(state, is_leaf=is_guard) if is_guard(part)]


def memory(program: Program, params: Any) -> dict[str, float]:
    """What a program needs, in copies of the parameters."""
    unit = nbytes(params)
    return {
        "state": nbytes(program.carry[1]) / unit,
        "temporaries": program.compiled.memory_analysis().temp_size_in_bytes / unit,
    }


def optimizer_costs(parameters: int, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """A row for every optimizer: its whole step, its update alone, an alarm, its memory.

    Args:
      parameters: of the network.
      rounds: the more, the steadier the medians.

    Returns:
      For each: `state` and `temporaries` in units of the parameters; `floor_bytes`, the
      least that an update must move, and `traffic_bytes`, what the compiled one reads and writes
      as XLA counts it; `step_seconds`, `update_seconds` and, where there is a guard,
      `alarm_seconds` and, by `tx.update` and `optax.apply_updates`, `chain_seconds`; and
      `..._ratio`, the median over the rounds of each by Adam's. And the bandwidth in bytes a
      second, that of `y + 2 x` in place, in turn with the updates.
    """
    params = network(parameters)
    makers = {name: make() for name, make in MEASURED.items()}
    programs = {name: whole_step(tx, params) for name, tx in makers.items()}
    rows = {
        name: memory(program, params) | {"floor_bytes": least_traffic(program.carry[1], params)}
        for name, program in programs.items()
    }
    guarded = [name for name, program in programs.items() if _guards(program.carry[1])]
    alarms = {f"alarm {name}": with_alarms(programs[name]) for name in guarded}
    seconds = timed(programs | alarms, rounds)
    _record(rows, "step", {name: seconds[name] for name in programs})
    _record(rows, "alarm", {name: seconds[f"alarm {name}"] for name in guarded}, seconds["adam"])
    del programs, alarms  # their memory
    chains = {name: whole_step(makers[name], params, by_update) for name in ["adam", *guarded]}
    seconds = timed(chains, rounds)
    _record(rows, "chain", {name: seconds[name] for name in guarded}, seconds["adam"])
    del chains
    updates = {name: update_alone(tx, params) for name, tx in makers.items()}
    for name, update in updates.items():
        rows[name]["traffic_bytes"] = update.compiled.cost_analysis()["bytes accessed"]
    x = jnp.ones(parameters)
    add = compiled(lambda y, state, x: (y + 2 * x, state), optax.identity(), x, x)
    seconds = timed(updates | {"add": add}, rounds)
    bandwidth = float(3 * x.nbytes / np.median(seconds.pop("add")))
    _record(rows, "update", seconds)
    return [{"optimizer": name} | row for name, row in rows.items()], bandwidth


def compared(
    programs: Mapping[Any, Callable[[optax.GradientTransformation], Program]], rounds: int
) -> list[dict[str, Any]]:
    """A row for every program and each of a few optimizers: step and compilation.

    Args:
      programs: what makes the step of an optimizer, by a size or a name.
      rounds: as for `optimizer_costs`.
    """
    table = []
    for size, program in tqdm(programs.items(), desc="sizes", leave=False, disable=None):
        made = {name: program(MEASURED[name]()) for name in FEW}
        rows: dict[str, dict[str, Any]] = {
            name: {"compile_seconds": one.seconds} for name, one in made.items()
        }
        _record(rows, "step", timed(made, rounds))
        table += [{"size": size, "optimizer": name} | row for name, row in rows.items()]
    return table


def _record(
    rows: dict[str, dict[str, Any]],
    what: str,
    seconds: Mapping[str, Floats],
    unit: Floats | None = None,
) -> None:
    """Adds the median time, and the median over the rounds of its ratio to Adam's."""
    unit = seconds["adam"] if unit is None else unit
    for name, taken in seconds.items():
        rows[name][f"{what}_seconds"] = float(np.median(taken))
        rows[name][f"{what}_ratio"] = float(np.median(taken / unit))
