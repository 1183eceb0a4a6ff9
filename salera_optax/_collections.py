"""What becomes of the collections beside the parameters, such as batch statistics, in a call."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from salera_optax._arrays import like, select
from salera_optax._guard_state import PageHinkleyState


class Call:
    """What one call did to the guards of an optimizer, bool scalars.

    Attributes:
      hold: whether it took no step: what the minibatch has made is not taken.
      go_back: whether it put a snapshot back.
      renew: whether it renewed one.
    """

    def __init__(self, before: list[PageHinkleyState], after: list[PageHinkleyState]) -> None:
        # Where Optax accumulates, a guard may not have been called: its action is an old one.
        called = [
            jax.tree.map(lambda done, new=new, old=old: done & (new.step != old.step), new.action)
            for old, new in zip(before, after, strict=True)
        ]
        self.hold = _any([action.hold for action in called])
        self.go_back = _any([action.go_back for action in called])
        self.renew = _any([action.renew for action in called])

    def after(self, saved: Any, old: Any, new: Any) -> Any:
        """The collection: `saved` or `old` where no step was taken, else `new` if it is finite.

        A minibatch may be skipped without a guard (`optax.apply_if_finite`), but not forgotten.
        """
        broken = _any([~_finite(n) & _finite(o) for n, o in pairs(new, old)])
        back = _select(self.go_back, saved, old)
        return _select(self.hold, back, _select(broken, old, new))

    def renewed(self, saved: Any, old: Any) -> Any:
        """The saved collection: `old` where the parameters beside it were saved."""
        return _select(self.renew, old, saved)


def _any(flags: list[jax.Array]) -> jax.Array:
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


def pairs(a: Any, b: Any) -> list[tuple[Any, Any]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _finite(x: ArrayLike) -> jax.Array:
    known = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return jnp.all(jnp.isfinite(x)) if known else jnp.ones((), bool)


def _select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`select` in the dtypes of `no`."""
    return jax.tree.map(like, select(condition, yes, no), no)


def check_loss(value: ArrayLike | None, call: str) -> None:
    """Raises where the loss is missing that a guard needs; `call` is the call that has it."""
    if value is None:
        raise TypeError(
            f"{call.partition('(')[0]}: missing argument 'value', the minibatch loss (a real "
            f"scalar), which the guard of this optimizer watches: call {call}."
        )
