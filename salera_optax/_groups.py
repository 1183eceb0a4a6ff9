"""Groups of leaves that share a rate: their labels, their members, and their scalars."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from salera_optax._arrays import scaled
from salera_optax._validation import leaf_name

Groups = Any  # None, "all", a prefix pytree of labels, or a function from parameters to one.

_COLUMNS = 8  # of the table in which the scalars of the groups stand for the leaves to read


def check_groups(groups: Any) -> None:
    """Raises for a string other than "all", which would be one rate, too, and hardly meant."""
    if isinstance(groups, str) and groups != "all":
        raise ValueError(
            "groups must be None (a rate per leaf), 'all' (one rate), a pytree of labels, or a "
            f"function from parameters to one, such as by_module, got {groups!r}."
        )


def by_module(params: Any) -> Any:
    """Labels every leaf with its module: kernel and bias of a Flax layer share one rate.

    Args:
      params: a pytree of parameters, or any pytree of the same structure.

    Returns:
      A pytree of strings, for every leaf its path less the last key, or `"root"` for a leaf of the
      outermost module. It is what `groups` expects.

    Example:
      >>> by_module({"Dense_0": {"bias": 0.0, "kernel": 1.0}, "scale": 1.0})
      {'Dense_0': {'bias': 'Dense_0', 'kernel': 'Dense_0'}, 'scale': 'root'}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: leaf_name(path, depth=-1) or "root", params
    )


def leaf_labels(groups: Groups, tree: Any) -> list[str]:
    """The label of every leaf of `tree`, in order."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    if groups is None:
        names = [leaf_name(path) for path in paths]
        repeated = Counter(names)  # {"a/b": x, "a": {"b": y}}: fall back to the unambiguous form.
        return [
            name if repeated[name] == 1 else jax.tree_util.keystr(path)
            for name, path in zip(names, paths, strict=True)
        ]
    if not paths:
        return []
    labels = groups(tree) if callable(groups) else groups
    try:
        full = jax.tree.map(lambda label, part: jax.tree.map(lambda _: label, part), labels, tree)
        leaves = jax.tree.leaves(full)
        covered = len(leaves) == len(paths)
    except ValueError:
        covered = False
    if not covered:
        raise ValueError(
            "groups must give a label to every leaf of params, as a pytree of strings that is a "
            f"prefix of {jax.tree.structure(tree)}, got {labels!r}."
        )
    for label in leaves:
        if not isinstance(label, str):
            raise TypeError(f"groups must consist of strings, one label a leaf, got {label!r}.")
    return leaves


def members_of(groups: Groups, tree: Any) -> dict[str, list[int]]:
    """For every group, in alphabetical order, the indices of its leaves."""
    members: dict[str, list[int]] = {}
    for index, label in enumerate(leaf_labels(groups, tree)):
        members.setdefault(label, []).append(index)
    return dict(sorted(members.items()))


class Grouping:
    """Which leaves make which group: what is summed over a group, and what a leaf reads of it.

    The scalars of all groups are a vector, in alphabetical order of the groups. A few kernels work
    them out for all, and not a few for each.

    Args:
      members: of every group the indices of its leaves, as `members_of` gives them.
      dtype: of the scalars.
    """

    def __init__(self, members: Mapping[str, list[int]], dtype: Any) -> None:
        self._members, self._dtype = list(members.values()), dtype
        self._group_of = {i: group for group, these in enumerate(self._members) for i in these}
        rows, columns = -(-len(members) // _COLUMNS), min(_COLUMNS, len(members))
        self._shape = (rows, columns)
        self._rows, self._columns = map(_unknown_range, self._shape)

    def sums(self, of_leaves: list[Any]) -> jax.Array:
        """Sums over the leaves of every group, of the shape (groups,)."""
        sums = [sum(of_leaves[i] for i in these) for these in self._members]
        return jnp.stack([jnp.asarray(each, self._dtype) for each in sums])

    def scaled(self, tree: Any, factors: jax.Array, like: Any) -> list[jax.Array]:
        """The leaves of a tree, each times the factor of its group, in the dtypes of `like`."""
        rows, columns = self._shape
        table = jnp.pad(factors, (0, rows * columns - factors.size)).reshape(self._shape)
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
        return [
            scaled(x, self._read(table, self._group_of[i]), y) for i, (x, y) in enumerate(pairs)
        ]

    def _read(self, table: jax.Array, group: int) -> jax.Array:
        row, column = divmod(group, _COLUMNS)
        place = (self._rows[row], self._columns[column])
        return jax.lax.dynamic_slice(table, place, (1, 1)).reshape(())


def _unknown_range(count: int) -> list[jax.Array]:
    """The numbers from 0, of which XLA does not know what they are.

    XLA compiles equal kernels once. Those of two leaves of one shape are equal if each reads a
    place that it is given, and not if it reads a place that is written into it.
    """
    one = jax.lax.optimization_barrier(jnp.uint32(1))
    number, numbers = one - 1, []
    for _ in range(count):
        # A quotient XLA works out once, and not anew in every kernel that asks for it.
        numbers.append(jax.lax.div(number, one))
        number = numbers[-1] + 1
    return numbers
