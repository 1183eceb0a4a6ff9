"""Groups of leaves that share a rate: their labels, and their members."""

from collections import Counter
from typing import Any

import jax

from salera_optax._validation import leaf_name

Groups = Any  # None, "all", a prefix pytree of labels, or a function from parameters to one.


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
