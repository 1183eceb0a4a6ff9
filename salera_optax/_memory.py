"""What an optimizer remembers of the gradients, and how it starts over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from salera_optax._arrays import like


def starts_over(inner: optax.GradientTransformation, state: Any, params: Any) -> Any:
    """The state with every memory of gradients as `init` makes it; all else stays.

    A memory is a field of a state that is like the parameters (a momentum, Adam's moments), and the
    count beside it, for without it Adam would take the new moments for old ones. Of ALERA these are
    the path and its step, with which the lengths of the path begin anew. What stands elsewhere
    stays: the count of a schedule, rates that were learned or set from the host.

    Args:
      inner: the optimizer.
      state: its state.
      params: the parameters to start over from.
    """
    fresh = inner.init(params)
    marks = optax.tree.map_params(
        inner, lambda _: True, state, transform_non_params=lambda _: False
    )
    # Rates that were learned, one a coordinate, are like the parameters too.
    memories = {
        path
        for path, mark in jax.tree_util.tree_leaves_with_path(marks)
        if mark and not any(getattr(key, "name", None) == "log_rate" for key in path)
    }
    names = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    # Of `state.mu["w"]` the owner is `state`, the place of the NamedTuple that has the field.
    owners = {
        path[: end - 1]
        for path in memories
        for end in range(1, len(path) + 1)
        if path[end:] in names
    }

    def chosen(path: Any, old: Any, new: Any) -> Any:
        count = jnp.ndim(old) == 0 and jnp.issubdtype(jnp.result_type(old), np.integer)
        if path not in memories and not (count and path[:-1] in owners):
            return old
        kind = jax.typeof(old).sharding
        new = new if jax.typeof(new).sharding == kind else jax.sharding.reshard(new, kind)
        return like(new, old)

    return jax.tree_util.tree_map_with_path(chosen, state, fresh)
