"""Training states for Flax whose rollback takes in the batch statistics; needs `flax` installed.

Flax's own linen `TrainState` cannot pass the loss to the optimizer, and no optimizer can restore
what is not a parameter: these two do both.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state
from jax.typing import ArrayLike

from salera_optax._page_hinkley import PageHinkleyState, copied, like
from salera_optax._step import guards, restored
from salera_optax._validation import check_same_tree

__all__ = ["Optimizer", "TrainState"]

_Model = TypeVar("_Model")


def _raised(before: list[PageHinkleyState], after: list[PageHinkleyState]) -> jax.Array:
    """Whether this call raised an alarm; `alarm` alone may be old, where Optax accumulates."""
    flags = [new.alarms != old.alarms for old, new in zip(before, after, strict=True)]
    return jnp.any(jnp.stack(flags))


def _stepped(before: list[PageHinkleyState], after: list[PageHinkleyState]) -> jax.Array:
    """Whether this call accepted a loss and so renewed the snapshot of the parameters."""
    flags = [new.detector.n != old.detector.n for old, new in zip(before, after, strict=True)]
    return jnp.any(jnp.stack(flags)) & ~_raised(before, after)


def _select(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda y, n: like(jnp.where(condition, y, n), n), yes, no)


class TrainState(train_state.TrainState, kw_only=True):
    """Flax's linen `TrainState` that passes on the loss and rolls back batch statistics as well.

    A drop-in for `flax.training.train_state.TrainState` with any Optax optimizer. With a guarded
    one (`salera`, `page_hinkley`) an alarm brings back, bit for bit and even from NaN, the
    parameters and every field that the call to `apply_gradients` was given: the pair that stood
    together before the last step. Fields for other collections are declared as in Flax, in a
    subclass. What must not come back, such as a random key or a dynamic loss scale, is set with
    `replace` and not through `apply_gradients`.

    Attributes:
      batch_stats: the batch statistics, or None.
      snapshot: the fields of this class and its subclasses as they stood before the last step
        (None without a guard). It costs one copy of them.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, salera_optax
      >>> from salera_optax.flax import TrainState
      >>> class Net(nn.Module):
      ...   @nn.compact
      ...   def __call__(self, x, train):
      ...     return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(x))
      >>> x = jax.random.normal(jax.random.key(0), (32, 3))
      >>> net = Net()
      >>> variables = net.init(jax.random.key(1), x, train=True)
      >>> state = TrainState.create(
      ...   apply_fn=net.apply, tx=salera_optax.salera(0.1),
      ...   params=variables["params"], batch_stats=variables["batch_stats"])
      >>> @jax.jit
      ... def train_step(state, x):
      ...   def loss_fn(params):
      ...     y, changed = state.apply_fn(
      ...       {"params": params, "batch_stats": state.batch_stats}, x, train=True,
      ...       mutable=["batch_stats"])
      ...     return jnp.mean((y - x.sum(1, keepdims=True)) ** 2), changed
      ...   (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
      ...   return state.apply_gradients(
      ...     grads=grads, value=loss, batch_stats=changed["batch_stats"])
      >>> for factor in (1, 1, 1, jnp.nan):  # the fourth minibatch is corrupt
      ...   state = train_step(state, factor * x)
      >>> int(state.step), int(state.opt_state.alarms)
      (4, 1)
      >>> bool(jnp.isfinite(state.batch_stats["BatchNorm_0"]["mean"]).all())
      True
    """

    batch_stats: Any = None
    snapshot: Any = None

    @classmethod
    def create(cls, *, apply_fn: Any, params: Any, tx: Any, **kwargs: Any) -> Self:
        """Makes the state before the first step.

        Args:
          apply_fn: usually `model.apply`.
          params: the parameters.
          tx: any Optax optimizer, guarded or not, or an `optax.MultiSteps`.
          **kwargs: `batch_stats`, and the fields that a subclass has added.

        Returns:
          A state with step 0.

        Raises:
          TypeError: for a keyword that is no field.
        """
        create: Any = super().create  # not annotated
        state: Self = create(apply_fn=apply_fn, params=params, tx=tx, **kwargs)
        guarded = bool(guards(state.opt_state))
        return state.replace(snapshot=copied(state._collections()) if guarded else None)

    def _collections(self) -> dict[str, Any]:
        """The fields beyond Flax's own that hold arrays."""
        known = {field.name for field in dataclasses.fields(train_state.TrainState)}
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in {*known, "snapshot"}
            and field.metadata.get("pytree_node", True)
            and getattr(self, field.name) is not None
        }

    def apply_gradients(self, *, grads: Any, value: ArrayLike | None = None, **kwargs: Any) -> Self:
        """Takes one step of the optimizer, or goes one back.

        Args:
          grads: the gradients, like `params`.
          value: the minibatch loss, a real scalar; a guard needs it, and other optimizers are
            given it if they take it.
          **kwargs: new values of further fields, `batch_stats` above all. At an alarm they are
            not taken, and the fields go back to what they were before the last step.

        Returns:
          The next state, with `step` one higher, at an alarm as well.

        Raises:
          TypeError: if `value` is missing and the optimizer has a guard, or a keyword is no field.
          ValueError: if a collection has not the structure and shapes that `create` was given, or
            cannot come back because this state was not created with a guard or with that
            collection.
        """
        if value is None and guards(self.opt_state):
            raise TypeError(
                "apply_gradients: missing argument 'value', the minibatch loss (a real scalar), "
                "which the guard of this optimizer watches: call "
                "apply_gradients(grads=grads, value=loss)."
            )
        # Flax keeps the scales of fp8 beside the parameters, to be overwritten by their gradients.
        overwritten = isinstance(grads, Mapping) and OVERWRITE_WITH_GRADIENT in grads
        params = self.params["params"] if overwritten else self.params
        tx = self.tx
        if isinstance(tx, optax.GradientTransformation):
            tx = optax.with_extra_args_support(tx)
        updates, opt_state = tx.update(
            grads["params"] if overwritten else grads,
            self.opt_state,
            params,
            **({} if value is None else {"value": value}),
        )
        params = restored(opt_state, optax.apply_updates(params, updates))
        if overwritten:
            params = {"params": params, OVERWRITE_WITH_GRADIENT: grads[OVERWRITE_WITH_GRADIENT]}
        return self.replace(
            step=self.step + 1,
            params=params,
            opt_state=opt_state,
            **self._rolled_back(opt_state, kwargs),
        )

    def _rolled_back(self, opt_state: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The fields given and the snapshot as they are after this call."""
        before, after = guards(self.opt_state), guards(opt_state)
        if not after:
            return given
        collections = self._collections()
        for name in collections.keys() & given.keys():
            if name not in (self.snapshot or {}):
                raise ValueError(
                    f"apply_gradients: {name} could not come back at an alarm, for this state was "
                    f"not created with a guarded optimizer and {name}: make it with "
                    "TrainState.create, or set what need not come back with replace."
                )
            check_same_tree("apply_gradients", name, given[name], self.snapshot[name])
        raised, stepped = _raised(before, after), _stepped(before, after)
        fields = {
            name: _select(raised, self.snapshot[name], new) if name in collections else new
            for name, new in given.items()
        }
        current = {name: collections[name] for name in self.snapshot}
        return fields | {"snapshot": _select(stepped, current, self.snapshot)}


class Optimizer(nnx.Optimizer[_Model]):
    """`nnx.Optimizer` whose rollback is exact and takes in the batch statistics.

    The same arguments, attributes and methods as `flax.nnx.Optimizer`, with any Optax optimizer.
    With a guarded one (`salera`, `page_hinkley`) an alarm brings back, bit for bit and even from
    NaN, the parameters (the variables of `wrt`) and every `nnx.BatchStat` of the model: the pair
    that stood together before the last step. A plain `nnx.Optimizer` works too: its rollback of
    the parameters is an addition, which rounds, and it leaves the batch statistics.

    Attributes:
      batch_stats: the batch statistics at the end of the last call (None without a guard).
      snapshot: those before the last step (None without a guard). The two cost two copies.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> from flax import nnx
      >>> class Net(nnx.Module):
      ...   def __init__(self, rngs):
      ...     self.norm = nnx.BatchNorm(3, rngs=rngs)
      ...     self.dense = nnx.Linear(3, 1, rngs=rngs)
      ...   def __call__(self, x):
      ...     return self.dense(self.norm(x))
      >>> net = Net(nnx.Rngs(0))
      >>> optimizer = salera_optax.flax.Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
      >>> @nnx.jit
      ... def train_step(net, optimizer, x):
      ...   loss_fn = lambda net: jnp.mean((net(x) - x.sum(1, keepdims=True)) ** 2)
      ...   loss, grads = nnx.value_and_grad(loss_fn)(net)
      ...   optimizer.update(net, grads, value=loss)
      >>> x = jax.random.normal(jax.random.key(0), (32, 3))
      >>> for factor in (1, 1, 1, jnp.nan):  # the fourth minibatch is corrupt
      ...   train_step(net, optimizer, factor * x)
      >>> int(salera_optax.metrics(optimizer.opt_state)["alarms"])
      1
      >>> bool(jnp.isfinite(net.norm.mean[...]).all())
      True
    """

    def __init__(self, model: _Model, tx: Any, **kwargs: Any) -> None:
        super().__init__(model, tx, **kwargs)
        self.batch_stats = self.snapshot = nnx.data(None)
        if guards(nnx.as_pure(self.opt_state)):
            stats = nnx.as_pure(nnx.state(model, nnx.BatchStat))
            self.batch_stats = nnx.data(_as_variables(stats))
            self.snapshot = nnx.data(_as_variables(stats))

    def update(self, model: _Model, grads: Any, /, **kwargs: Any) -> Any:
        """Takes one step of the optimizer on `model`, or goes one back.

        Args:
          model: the model, changed in place.
          grads: the gradients of `nnx.grad`, with the filter of `wrt`.
          **kwargs: what the optimizer takes: `value=loss`, the minibatch loss (a real scalar),
            which a guard needs.

        Returns:
          The updates that were added to the parameters; at an alarm the snapshot has replaced
          them since.

        Raises:
          TypeError: if `value` is missing and the optimizer has a guard.
          ValueError: if the batch statistics of `model` are not those of the model given first.
        """
        before = guards(nnx.as_pure(self.opt_state))
        if before:
            stats = nnx.as_pure(nnx.state(model, nnx.BatchStat))
            check_same_tree("update", "the batch statistics", stats, nnx.as_pure(self.snapshot))
        updates = super().update(model, grads, **kwargs)
        if before:
            opt_state = nnx.as_pure(self.opt_state)
            params = nnx.as_pure(nnx.state(model, self.wrt))
            nnx.update(model, restored(opt_state, params))
            after = guards(opt_state)
            old, saved = nnx.as_pure(self.batch_stats), nnx.as_pure(self.snapshot)
            stats = _select(_raised(before, after), saved, stats)
            nnx.update(model, stats)
            nnx.update(self.snapshot, _select(_stepped(before, after), old, saved))
            nnx.update(self.batch_stats, stats)
        return updates


def _as_variables(state: Any) -> Any:
    """A copy whose arrays are variables, so that `nnx.jit` hands on their changes."""
    return jax.tree.map(nnx.OptArray, copied(state))
