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
from jax.typing import ArrayLike

try:
    from flax import core, nnx, struct
    from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
    from flax.training import train_state
except ImportError as error:
    raise ImportError(
        "salera_optax.flax needs Flax 0.12 or newer: pip install 'salera_optax[flax]'."
    ) from error

from salera_optax._arrays import copied
from salera_optax._collections import Call, check_loss, pairs
from salera_optax._step import guards, restored, stepped
from salera_optax._validation import check_same_tree

__all__ = ["Optimizer", "TrainState"]

_Model = TypeVar("_Model")


class TrainState(train_state.TrainState, kw_only=True):
    """Flax's linen `TrainState` that passes on the loss and rolls back batch statistics as well.

    A drop-in for `flax.training.train_state.TrainState` with any Optax optimizer. With a guarded
    one (`salera`, `page_hinkley`) an alarm brings back, bit for bit and even from NaN, the
    parameters and every field that the call to `apply_gradients` was given: the pair that stood
    together when nothing spoke against it last. A call that is held changes neither, also without a
    rollback. Nor does such a field take a value that is not finite. Fields for other collections
    are declared as in Flax, in a subclass. What must not come back, such as a random key or a
    dynamic loss scale, is set with `replace` and not through `apply_gradients`; the usual
    `where(is_finite, ...)` around a step with a loss scale is not needed.

    Attributes:
      batch_stats: the batch statistics, or None.
      snapshot: the fields of this class and its subclasses that belong to the snapshot of the
        parameters (None without a guard). It costs one copy of them.

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
      >>> int(state.step), int(state.opt_state.holds)
      (4, 1)
      >>> bool(jnp.isfinite(state.batch_stats["BatchNorm_0"]["mean"]).all())
      True
    """

    # A factory, for a default value would stay behind as an attribute of the class and make the
    # fields of subclasses that redeclare it optional.
    batch_stats: Any = struct.field(default_factory=lambda: None)
    snapshot: Any = struct.field(default_factory=lambda: None)

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
        if not guards(state.opt_state):
            return state
        held = {name: held for name, held in state._collections().items() if held is not None}
        return state.replace(snapshot=copied(held))

    def _collections(self) -> dict[str, Any]:
        """The fields beyond Flax's own that may hold arrays."""
        known = {field.name for field in dataclasses.fields(train_state.TrainState)}
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in {*known, "snapshot"} and field.metadata.get("pytree_node", True)
        }

    def apply_gradients(self, *, grads: Any, value: ArrayLike | None = None, **kwargs: Any) -> Self:
        """Takes one step of the optimizer, or goes one back.

        Args:
          grads: the gradients, like `params`.
          value: the minibatch loss, a real scalar; a guard needs it, and other optimizers are
            given it if they take it.
          **kwargs: new values of further fields, `batch_stats` above all. Where the
            call is held they are not taken, and at an alarm the fields go back as well.

        Returns:
          The next state, with `step` one higher, at an alarm as well.

        Raises:
          TypeError: if `value` is missing and the optimizer has a guard, or a keyword is no field.
          ValueError: if a collection has not the structure and shapes that `create` was given, or
            cannot come back because this state was not created with a guard or with that
            collection.
        """
        before = guards(self.opt_state)
        if before:
            check_loss(value, "apply_gradients(grads=grads, value=loss)")
        # Flax keeps the scales of fp8 beside the parameters, to be overwritten by their gradients.
        overwritten = isinstance(grads, Mapping) and OVERWRITE_WITH_GRADIENT in grads
        params, opt_state = stepped(
            self.tx,
            grads["params"] if overwritten else grads,
            self.opt_state,
            self.params["params"] if overwritten else self.params,
            **({} if value is None else {"value": value}),
        )
        call = Call(before, guards(opt_state)) if before else None
        if overwritten:
            old, new = (tree[OVERWRITE_WITH_GRADIENT] for tree in (self.params, grads))
            kept = new if call is None else call.after(old, old, new)
            params = {"params": params, OVERWRITE_WITH_GRADIENT: kept}
        fields = kwargs if call is None else self._rolled_back(call, kwargs)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **fields)

    def _rolled_back(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        """The fields given and the snapshot as they are after this call."""
        collections, fields = self._collections(), dict(given)
        for name in collections.keys() & given.keys():
            if name not in (self.snapshot or {}):
                if not jax.tree.leaves(given[name]):
                    continue  # nothing that could come back
                raise ValueError(
                    f"apply_gradients: {name} could not come back at an alarm, for this state was "
                    f"not created with a guarded optimizer and {name}: make it with "
                    "TrainState.create, or set what need not come back with replace."
                )
            saved = self.snapshot[name]
            old, new = (_thawed_like(saved, part) for part in (collections[name], given[name]))
            check_same_tree("apply_gradients", f"the {name} of the state", old, saved)
            check_same_tree("apply_gradients", name, new, saved)
            collections[name], fields[name] = old, call.after(saved, old, new)
        if self.snapshot is None:
            return fields
        return fields | {
            "snapshot": {
                name: call.renewed(saved, collections[name])
                if _alike(saved, collections.get(name))
                else saved  # replaced by something else, hence not given to this method
                for name, saved in self.snapshot.items()
            }
        }


def _thawed_like(like: Any, collection: Any) -> Any:
    """Flax makes dictionaries, frozen or not; which does not matter to it."""
    if isinstance(like, core.FrozenDict):
        return core.freeze(collection)
    return core.unfreeze(collection) if isinstance(collection, core.FrozenDict) else collection


def _alike(a: Any, b: Any) -> bool:
    """Whether two collections have the same structure and shapes."""
    structures: list[Any] = [jax.tree.structure(a), jax.tree.structure(b)]
    return bool(structures[0] == structures[1]) and all(
        jnp.shape(x) == jnp.shape(y) for x, y in pairs(a, b)
    )


class Optimizer(nnx.Optimizer[_Model]):
    """`nnx.Optimizer` whose rollback is exact and takes in the batch statistics.

    The same arguments, attributes and methods as `flax.nnx.Optimizer`, with any Optax optimizer.
    With a guarded one (`salera`, `page_hinkley`) an alarm brings back, bit for bit and even from
    NaN, the parameters (the variables of `wrt`) and every `nnx.BatchStat` of the model: the pair
    that stood together when nothing spoke against it last. A call that is held changes neither,
    also without a rollback. A plain `nnx.Optimizer` works too: its rollback of the parameters is an
    addition, which rounds, and it leaves the batch statistics. Make it when the model has the
    parameters to start from.

    Attributes:
      last_batch_stats: the batch statistics at the end of the last call (None without a guard).
      snapshot: those that belong to the snapshot of the parameters (None without a guard). The two
        cost two copies.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> from flax import nnx
      >>> from salera_optax.flax import Optimizer
      >>> class Net(nnx.Module):
      ...   def __init__(self, rngs):
      ...     self.norm = nnx.BatchNorm(3, rngs=rngs)
      ...     self.dense = nnx.Linear(3, 1, rngs=rngs)
      ...   def __call__(self, x):
      ...     return self.dense(self.norm(x))
      >>> net = Net(nnx.Rngs(0))
      >>> optimizer = Optimizer(net, salera_optax.salera(0.1), wrt=nnx.Param)
      >>> @nnx.jit
      ... def train_step(net, optimizer, x):
      ...   loss_fn = lambda net: jnp.mean((net(x) - x.sum(1, keepdims=True)) ** 2)
      ...   loss, grads = nnx.value_and_grad(loss_fn)(net)
      ...   optimizer.update(net, grads, value=loss)
      >>> x = jax.random.normal(jax.random.key(0), (32, 3))
      >>> for factor in (1, 1, 1, jnp.nan):  # the fourth minibatch is corrupt
      ...   train_step(net, optimizer, factor * x)
      >>> int(salera_optax.metrics(optimizer.opt_state)["holds"])
      1
      >>> bool(jnp.isfinite(net.norm.mean[...]).all())
      True
    """

    def __init__(self, model: _Model, tx: Any, **kwargs: Any) -> None:
        if isinstance(tx, optax.GradientTransformation):
            tx = optax.with_extra_args_support(tx)
        super().__init__(model, tx, **kwargs)
        self.last_batch_stats = self.snapshot = nnx.data(None)
        if guards(_as_pure(self.opt_state)):
            stats = self._of(model, nnx.BatchStat)
            self.last_batch_stats = nnx.data(_as_variables(stats))
            self.snapshot = nnx.data(_as_variables(stats))

    def _of(self, model: _Model, kind: Any) -> Any:
        """The arrays of that kind in the model."""
        mode = {"graph": self.graph} if hasattr(self, "graph") else {}  # since Flax 0.12.8
        return _as_pure(nnx.state(model, kind, **mode))

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
        before = guards(_as_pure(self.opt_state))
        if not before:
            return super().update(model, grads, **kwargs)
        check_loss(kwargs.get("value"), "update(model, grads, value=loss)")
        stats = self._of(model, nnx.BatchStat)
        old, saved = _as_pure(self.last_batch_stats), _as_pure(self.snapshot)
        check_same_tree("update", "the batch statistics", stats, saved)
        updates = super().update(model, grads, **kwargs)
        opt_state = _as_pure(self.opt_state)
        call = Call(before, guards(opt_state))
        stats = call.after(saved, old, stats)
        nnx.update(model, restored(opt_state, self._of(model, self.wrt)))
        nnx.update(model, stats)
        nnx.update(self.snapshot, call.renewed(saved, old))
        nnx.update(self.last_batch_stats, stats)
        return updates


def _as_pure(state: Any) -> Any:
    """The arrays in place of the variables."""
    return nnx.as_pure(state) if hasattr(nnx, "as_pure") else nnx.pure(state)  # before Flax 0.12.7


def _as_variables(state: Any) -> Any:
    """A copy whose arrays are variables, so that `nnx.jit` hands on their changes."""
    return jax.tree.map(nnx.OptArray, copied(state))
