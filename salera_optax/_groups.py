"""Groups of leaves that share a rate: their labels, their members, and their scalars."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from salera_optax._arrays import scaled
from salera_optax._validation import leaf_name

Groups = Any  # None, "all", a prefix pytree of labels, or a function from parameters to one.

# The scalars of so many groups are one vector. XLA then compiles and starts a few kernels for all
# of them, not a dozen a group. Those of all groups are not one: every leaf would read a place of
# its own, in a kernel of its own, while XLA compiles equal kernels only once. With 200 leaves that
# was most of the compilation.
_RUN = 16


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


class Runs:
    """Groups in alphabetical order, whose scalars stand in vectors of a few groups each.

    Args:
      members: of every group the indices of its leaves, as `members_of` gives them.
      dtype: of the scalars.
    """

    def __init__(self, members: Mapping[str, list[int]], dtype: Any) -> None:
        self._members, self._dtype = members, dtype
        self._group_of = {i: name for name, indices in members.items() for i in indices}
        self._starts = range(0, len(members), _RUN)
        self._names = [list(members)[start : start + _RUN] for start in self._starts]

    def vectors(self, of_groups: Mapping[str, Any]) -> list[jax.Array]:
        """From scalars by group."""
        return [
            jnp.stack([jnp.asarray(of_groups[name], self._dtype) for name in names])
            for names in self._names
        ]

    def sums(self, of_leaves: list[Any]) -> list[jax.Array]:
        """Sums over the leaves of every group."""
        sums = {name: sum(of_leaves[i] for i in these) for name, these in self._members.items()}
        return self.vectors(sums)

    def split(self, rows: jax.Array) -> list[jax.Array]:
        """From an array with a row a group."""
        return jnp.split(rows, list(self._starts[1:]))

    def by_group(self, vectors: Iterable[jax.Array]) -> dict[str, jax.Array]:
        return dict(zip(self._members, itertools.chain(*vectors), strict=True))

    def scaled(self, tree: Any, factors: Iterable[jax.Array], like: Any) -> list[jax.Array]:
        """The leaves of a tree, each times the factor of its group, in the dtypes of `like`."""
        of_groups = self.by_group(factors)
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
        return [scaled(x, of_groups[self._group_of[i]], y) for i, (x, y) in enumerate(pairs)]
