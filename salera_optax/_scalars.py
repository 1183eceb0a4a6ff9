"""The scalars of a state, kept in two vectors, each by its name.

Every array of a state is a buffer at every call of a jitted step, and every scalar of it a kernel:
for a small network that was most of what a guard cost. So a state holds `Scalars`, whose class
names what is in them::

    class Tally(NamedTuple):  # a value of the type of each
        losses: Any = 0
        mean: Any = 0.0

    class TallyState(Scalars):
        losses, mean = named(Tally())

    state = TallyState.of(Tally(jnp.int32(3), jnp.float32(0.5)))
    state.mean  # 0.5
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp


class Scalars(NamedTuple):
    """Scalars in two vectors. States may be stacked: a scalar stands in the last dimension.

    Attributes:
      numbers: the floating-point ones, of the shape (how many,).
      counts: int32, the integers and the booleans, of the shape (how many,).
    """

    numbers: jax.Array
    counts: jax.Array

    @classmethod
    def of(cls, tree: Any) -> Self:
        """The vectors of a pytree of scalars: floating-point, int32 and bool."""
        return cls(*_vectors(jax.tree.map(jnp.asarray, tree)))


def initial(example: Any, dtype: jax.typing.DTypeLike) -> Any:
    """The scalars of the example as arrays: of `dtype`, int32 and bool."""
    kinds = {float: dtype, int: jnp.int32, bool: jnp.bool_}
    return jax.tree.map(lambda value: jnp.asarray(value, kinds[type(value)]), example)


def read_from(vector: Any, scalars: Callable[[jax.Array], Any]) -> Any:
    """What a function reads from a vector, which may be abstract."""
    if isinstance(vector, jax.ShapeDtypeStruct):
        return jax.eval_shape(scalars, vector)
    return scalars(vector)


def named(example: tuple[Any, ...]) -> list[Any]:
    """A property for every field of the example, which has a Python number for every scalar."""
    # In the order in which `_vectors` flattens them.
    number_places, count_places = itertools.count(), itertools.count()

    def reader(value: bool | float) -> Callable[[Scalars], Any]:
        number = isinstance(value, float)
        place = next(number_places if number else count_places)

        def scalar(vector: jax.Array) -> jax.Array:
            return vector[..., place] != 0 if isinstance(value, bool) else vector[..., place]

        def read(scalars: Scalars) -> Any:
            return read_from(scalars.numbers if number else scalars.counts, scalar)

        return read

    def field(readers: Any) -> property:
        return property(lambda scalars: jax.tree.map(lambda read: read(scalars), readers))

    return [field(jax.tree.map(reader, part)) for part in example]


@jax.jit  # else a hundred small programs where a state is made outside
def _vectors(tree: Any) -> tuple[jax.Array, jax.Array]:
    leaves = jax.tree.leaves(tree)
    numbers = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    counts = [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    return _vector(numbers), _vector(counts).astype(jnp.int32)


def _vector(scalars: list[jax.Array]) -> jax.Array:
    """By selection, which XLA fuses with what leads to the scalars; a stack it does not."""
    places = jnp.arange(len(scalars))
    vector = jnp.zeros(len(scalars), jnp.result_type(*scalars))
    for place, scalar in enumerate(scalars):
        vector = jnp.where(places == place, scalar.astype(vector.dtype), vector)
    return vector
