"""What an optimizer state says about its run, as a flat dictionary of scalars."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salera_optax._alera import ScaleByAleraState
from salera_optax._alias_parts import LearningRateState
from salera_optax._groups import leaf_labels
from salera_optax._guard_state import PageHinkleyState
from salera_optax._history import rows
from salera_optax._parameterwise import ScaleByParameterwiseAleraState
from salera_optax._validation import leaf_name

_KINDS = (PageHinkleyState, ScaleByAleraState, ScaleByParameterwiseAleraState, LearningRateState)
# What the states of others are made of.
_CONTAINERS = (tuple, list, dict)
_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct, int, float, complex)


def metrics(opt_state: Any) -> dict[str, jax.Array]:
    """Reports alarms, statistic and learning rates of an optimizer state.

    Works inside `jit`, needs no transfer to the host, and finds the states of this package however
    deeply they are nested (chain, masked, MultiSteps, inject_hyperparams, multi_transform).

    A guard has these keys:

    * `alarm`: bool, whether the last call was an alarm.
    * `alarms`: int32, alarms so far.
    * `cause`: int32, of the last alarm that is remembered: 0 none, 1 minibatches in doubt, 2 a
      rise that the detector is certain of, 3 values that are not finite.
    * `held`: int32, calls held in a row, up to now.
    * `holds`: int32, calls so far that took no step, alarms among them.
    * `nonfinite`: int32, calls so far whose loss, gradient or update was not finite.
    * `statistic`, `threshold`: the statistic of the test and what it is compared with, in
      deviations or, of the published test, in units of the loss; after an alarm it has restarted.
    * `scale`: what alarms have left of the steps, in (0, 1].

    ALERA has ``learning_rate/<group>`` for every group of leaves: the rate multiplier times what
    guards around it have left, times the base learning rate if the optimizer is one of the aliases
    (without one, the multiplier alone). Of parameter-wise rates it is the geometric mean over a
    leaf. With several guards or several ALERA states the place of each in the state stands before
    its key.

    Args:
      opt_state: any optimizer state, an `nnx.Optimizer`'s included.

    Returns:
      A flat dictionary of scalars on the device, empty where there is nothing of this package.

    Raises:
      TypeError: if `opt_state` is not the state of an optimizer.

    Example:
      >>> import jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera(0.1)
      >>> report = metrics(tx.init({"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}))
      >>> sorted(report)[:4]
      ['alarm', 'alarms', 'cause', 'held']
      >>> round(float(report["learning_rate/kernel"]), 3)
      0.1
    """
    found = _found("metrics", opt_state)
    guards = [(name, state) for name, state, _ in found if isinstance(state, PageHinkleyState)]
    report: dict[str, jax.Array] = {}
    for name, guard in guards:
        prefix = f"{name}/" if len(guards) > 1 else ""
        report |= {prefix + key: number for key, number in _guard_metrics(guard).items()}
    report |= _learning_rates(found)
    return {key: jnp.asarray(number) for key, number in report.items()}  # arrays, no nnx variables


def events(opt_state: Any) -> list[dict[str, Any]]:
    """The last alarms, held calls and updates that were not finite, as plain rows.

    For a log, or a look at a run that does not learn: each guard remembers its last eight. It
    transfers them to the host, so call it outside `jit`, now and then.

    Args:
      opt_state: any optimizer state, an `nnx.Optimizer`'s included.

    Returns:
      A dictionary for every event, oldest first: `step`, the call from 0; `cause`: "doubt" (loss or
      gradient far outside), "rise" (the detector is certain), "not finite", or "update not finite";
      `alarm`, whether it was one; `loss`; `gradient_norm`; and `leaf`, the name of the leaf whose
      gradient norm stood out most from its own recent ones (its number if there is no snapshot).

    Raises:
      TypeError: if `opt_state` is not the state of an optimizer.

    Example:
      >>> import jax.numpy as jnp, salera_optax
      >>> tx, x = salera_optax.salera(0.1), {"w": jnp.ones(2)}
      >>> state = tx.init(x)
      >>> for loss in (1.0, float("nan"), 1.0):
      ...   x, state = salera_optax.step(tx, x, state, x, value=loss)
      >>> [(event["step"], event["cause"], event["leaf"]) for event in events(state)]
      [(1, 'not finite', 'w')]
    """
    found: list[dict[str, Any]] = []
    for _, state, _ in _found("events", opt_state):
        if isinstance(state, PageHinkleyState):
            numbers = [str(index) for index in range(state.history.leaf_norms.size)]
            names = numbers if state.snapshot is None else leaf_labels(None, state.snapshot)
            found += rows(state.history, names)
    return found


def _found(caller: str, opt_state: Any) -> list[tuple[str, Any, jax.Array]]:
    """Every state of ours; raises where there is none because this is no optimizer's state."""
    found = list(_walk(opt_state, "", jnp.float32(1)))
    state = getattr(opt_state, "opt_state", opt_state)  # a train state holds one
    known = isinstance(state, (*_CONTAINERS, *_ARRAYS)) or dataclasses.is_dataclass(state)
    arrays = all(isinstance(leaf, _ARRAYS) for leaf in jax.tree.leaves(state))
    if not found and not (known and arrays):
        raise TypeError(
            f"{caller}: opt_state must be the state of an optimizer, as tx.init(params) returns "
            f"it, got {type(opt_state)}. (In nnx.state(optimizer) the types of the states are "
            "lost: pass optimizer.opt_state.)"
        )
    return found


def _walk(state: Any, prefix: str, scale: jax.Array) -> Iterator[tuple[str, Any, jax.Array]]:
    """Every state of ours, its place and the guards' scale there, outer first, no snapshots."""
    places = jax.tree_util.tree_leaves_with_path(
        state, is_leaf=lambda part: isinstance(part, _KINDS)
    )
    for path, part in places:
        if not isinstance(part, _KINDS):
            continue
        name = "/".join(filter(None, (prefix, leaf_name(path))))
        yield name, part, scale
        if isinstance(part, PageHinkleyState):
            inside = f"{name}/inner_state" if name else "inner_state"
            yield from _walk(part.inner_state, inside, scale * part.scale)


def _guard_metrics(guard: PageHinkleyState) -> dict[str, jax.Array]:
    alarms = guard.history.alarm_causes
    # States may be stacked, the entries are in the last dimension.
    places = jnp.where(alarms > 0, jnp.arange(alarms.shape[-1]), -1)
    last = jnp.max(places, -1, keepdims=True)
    cause = jnp.take_along_axis(alarms, last, -1)[..., 0]  # of the last entry where there is none
    shown = {
        key: getattr(guard.detector, key)
        for key in ("statistic", "threshold")
        if hasattr(guard.detector, key)
    }
    return {
        "alarm": guard.alarm,
        "alarms": guard.alarms,
        "cause": jnp.where(last[..., 0] < 0, 0, cause),
        "held": guard.response.held,
        "holds": guard.holds,
        "nonfinite": guard.nonfinite,
        "scale": guard.scale,
        **shown,
    }


def _learning_rates(found: list[tuple[str, Any, jax.Array]]) -> dict[str, jax.Array]:
    several = (
        sum(isinstance(s, ScaleByAleraState | ScaleByParameterwiseAleraState) for _, s, _ in found)
        > 1
    )
    report: dict[str, jax.Array] = {}
    for index, (name, state, scale) in enumerate(found):
        if not isinstance(state, ScaleByAleraState | ScaleByParameterwiseAleraState):
            continue
        # The chain of an alias: the base learning rate stands right behind its ALERA state.
        following = found[index + 1][1] if index + 1 < len(found) else None
        base = following.learning_rate if isinstance(following, LearningRateState) else 1
        prefix = f"learning_rate/{name}/" if several else "learning_rate/"
        for group, log_rate in _log_rates(state).items():
            report[prefix + group] = base * scale * jnp.exp(log_rate)
    return report


def _log_rates(state: ScaleByAleraState | ScaleByParameterwiseAleraState) -> dict[str, jax.Array]:
    if isinstance(state, ScaleByAleraState):
        return state.log_rate
    names, leaves = leaf_labels(None, state.log_rate), jax.tree.leaves(state.log_rate)
    return {  # The geometric mean of a leaf's rates.
        name: jnp.sum(leaf) / max(jnp.size(leaf), 1)
        for name, leaf in zip(names, leaves, strict=True)
    }
