"""A stand-in for `salera_optax.salera_adamw` until the library has it: Adam and the ratio law."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import salera_optax


def _scale_by_ratio(alpha: float, gain: float, base: Any) -> optax.GradientTransformation:
    """One rate a leaf, that follows x = log(||path||^2 / mean): by gain x |x| / (|x| + s)."""
    rates = salera_optax.scale_by_alera(alpha, 0.0, base=base)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves: Any
        after: Any
        moves, after = rates.update(updates, state, params)
        mean = salera_optax.path_mean(alpha, after.step)
        paths = jax.tree.leaves(after.path)
        rate = {
            name: log_rate + jnp.where(state_norm > 0, gain * _followed(squared / mean, p.size), 0)
            for (name, log_rate), p, squared, state_norm in zip(
                after.log_rate.items(),
                paths,
                [jnp.sum(p**2) for p in paths],
                [jnp.sum(g**2) for g in jax.tree.leaves(updates)],
                strict=True,
            )
        }
        change = [jnp.exp(rate[name] - log_rate) for name, log_rate in after.log_rate.items()]
        treedef = jax.tree.structure(moves)
        moves = jax.tree.map(jnp.multiply, moves, jax.tree.unflatten(treedef, change))
        return moves, after._replace(log_rate=rate)

    return optax.GradientTransformation(rates.init, update_fn)


def _followed(ratio: jax.Array, size: int) -> jax.Array:
    x = jnp.clip(jnp.log(ratio), -3, 6)
    return x * jnp.abs(x) / (jnp.abs(x) + jnp.sqrt(2 / size))


def salera_adamw(learning_rate: Any = 1e-4) -> optax.GradientTransformation:
    """Adam's direction, decoupled weight decay, the ratio law, the guard."""
    tx = optax.chain(
        _scale_by_ratio(0.01, 0.01, optax.scale_by_adam(0.9, 0.95)),
        optax.add_decayed_weights(1e-4),
        optax.scale_by_learning_rate(learning_rate),
    )
    return salera_optax.page_hinkley(tx, restore_inner=False, on_alarm=salera_optax.forget_path)
