"""The ready-made optimizers on the gradient, each a chain of parts."""

from typing import Any

import optax
from jax.typing import ArrayLike

from salera_optax._alera import scale_by_alera
from salera_optax._alias_parts import (
    scaled_by_rate,
    with_decay,
    with_guard,
    with_limits,
    with_momentum,
)
from salera_optax._detectors import Detector
from salera_optax._devices import AxisName
from salera_optax._groups import Groups
from salera_optax._laws import Law
from salera_optax._parameterwise import scale_by_parameterwise_alera

# Length of the first step, as of `with_limits`. Momentum makes steps up to ten times as long.
_FIRST = (0.0001, 0.001)


def alera(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
    momentum: ArrayLike | None = 0.9,
    nesterov: bool = True,
    clip: ArrayLike | None = 4.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    eps: ArrayLike = 1e-6,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """ALERA: SGD whose learning rate, one per group of leaves, tunes itself.

    Use it where the loss cannot be had in the training loop; `salera`, the same with a guard, is
    the better choice otherwise, for the rate may rise until the loss explodes.

    Per group of dimension d, with the raw gradient g, in step t::

        r_t    = usual ||g||, a running root mean square
        path_t = (1 - alpha) path_{t-1} + alpha g/max(||g||, r_t)
        rate_t = rate_{t-1} exp(law(||path_t||^2, alpha, t, d))
        update = -learning_rate rate_t base(g min(1, clip r_{t-1}/||g||))

    with g/||g|| in the path under the paper's law. So many tiny gradients do not outvote a few
    large ones; and a huge one, of an example that the network has not learned, makes no step that
    ends the run, for the rate is tuned to the usual ones. As far as it raises what is usual, the
    rate comes down: where gradients grow for good, steps become at most `clip` times as long.

    Steps stay small beside the parameters. With s their root mean square, the usual step of a group
    is, per weight, from 0.0001 s to 0.001 s long in the first step; both limits open by e^0.06 in
    every step, up to 0.12 s. So it hardly matters which learning rate a run starts from. There is
    no limit beside parameters that were all zero in `init`, without `params` in `update`, and under
    `score`, the paper's law; and no lower one under a schedule, which may be a warm-up.

    The law compares the path with a random walk's (`path_mean`, `path_std`), made of steps of the
    same lengths: the rate goes up while successive gradients agree more than chance would have it,
    and down while they agree less. Where ||g|| <= eps the path only decays, and the rate stays.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies. Leave it: it counts only as far as the limits below let it.
      alpha: memory rate of the path, in (0, 1]; it averages over about 1/alpha gradients.
      law: how a rate follows its path; None is `ratio()`, `score(...)` is the paper's, and
        `scale_by_alera` tells how to write one. (With `optax.inject_hyperparams`, which takes
        functions for schedules, name it in `static_args`.)
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function from parameters to one, such as
        `by_module` (the paper's layers).
      momentum: decay of the momentum in [0, 1), or None; the path still sees the raw gradient.
      nesterov: whether the momentum, if any, is Nesterov's.
      clip: how many times the usual norm of its group a gradient may have, finite and above 0; a
        longer one is scaled down to that in front of the momentum, and lowers the rate. None for no
        limit.
      weight_decay: what part of a parameter is added to its gradient, finite and at least 0, or an
        Optax schedule: an L2 penalty, in front of path and momentum. Where a gradient is exactly
        zero, as in the unseen rows of an embedding, nothing decays.
      mask: pytree of booleans, or function to one, of the leaves that decay; None for all.
      eps: a group whose gradient norm is at most this, finite and at least 0, lets its path decay
        and keeps its rate.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices: norms
        and dimensions are those of the whole leaf. Leaves that `shard_map` knows to vary over an
        axis count as sharded over it, all others as replicated. Under `pmap` and
        `check_vma=False` all count as replicated: do not shard them there. Gradients must be
        reduced already, as for any optimizer. `jit` needs no name.

    Returns:
      An optimizer. Its state holds one copy of the parameters, float32 or wider, a second one with
      `momentum`, and a scalar per group. The updates have the dtype of the parameters.

    Raises:
      ValueError: if a number is out of range or the labels do not cover the parameters.
      TypeError: if a leaf of the parameters is not floating-point, or the law no function.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = salera_optax.alera()
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(100):
      ...     grads = jax.grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.abs(x).max() < 0.01)
      True

    Source: arXiv 1709.01427, Section 3.1, Algorithm 1. Deviation: the law.
    """
    rates = scale_by_alera(
        alpha,
        law,
        groups=groups,
        base=with_momentum(momentum, nesterov),
        clip=clip,
        eps=eps,
        axis_name=axis_name,
    )
    decay = with_decay(weight_decay, mask, everywhere=False)
    chain = optax.chain(decay, rates, scaled_by_rate(learning_rate))
    return with_limits(chain, learning_rate, law, _FIRST, axis_name, of_gradient=True)


def salera(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    *,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
    momentum: ArrayLike | None = 0.9,
    nesterov: bool = True,
    clip: ArrayLike | None = 4.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    eps: ArrayLike = 1e-6,
    factor: ArrayLike = 0.5,
    rollback: bool = True,
    reset_path: bool = True,
    detector: Detector | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """SALERA: `alera` under the guard of `page_hinkley`.

    For networks that SGD trains well; `salera_adamw` is the one to start with otherwise. No
    learning rate to tune, and a run that survives an explosion. Pass the minibatch loss:
    `tx.update(grads, state, params, value=loss)`, or `salera_optax.step`.

    At a catastrophe the parameters go back to the last ones that nothing spoke against, every step
    is halved, the rates stay, and the paths are forgotten: a remembered path inflates the rate
    again at once.

    The published algorithm is::

        salera(0.01, law=score(3e-6, std="authors"), groups=by_module, momentum=None, clip=None,
               detector=published(minibatch/training_set), reset_path=False)

    and its authors' code also has `rollback=False`.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies. Leave it: the first steps are from 0.0001 to 0.001 of the root
        mean square of all parameters, per weight, whatever it is; see `alera`.
      alpha: memory rate of the path, in (0, 1]; it averages over about 1/alpha gradients.
      law: how a rate follows its path; None is `ratio()`, `score(...)` is the paper's, and
        `scale_by_alera` tells how to write one.
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function to one, such as `by_module`.
      momentum: decay of the momentum in [0, 1), or None; `reset_path` resets it too.
      nesterov: whether the momentum, if any, is Nesterov's.
      clip: how many times the usual norm of its group a gradient may have, finite and above 0; a
        longer one is scaled down to that in front of the momentum, and lowers the rate. None for no
        limit.
      weight_decay: what part of a parameter is added to its gradient, finite and at least 0, or an
        Optax schedule: an L2 penalty, in front of path and momentum.
      mask: pytree of booleans, or function to one, of the leaves that decay; None for all.
      eps: a group whose gradient norm is at most this, finite and at least 0, lets its path decay
        and keeps its rate.
      factor: what an alarm multiplies every step by, in (0, 1]; 1 only rolls back.
      rollback: whether an alarm restores the parameters; without it there is no copy of them.
      reset_path: whether path, step and momentum are forgotten where a step was to blame for an
        alarm; the rates stay.
      detector: what judges loss and gradient norm: None for `robust()`, `published()` for the
        paper's test, or a `Detector` of your own.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices, so that
        all decide alike; see `page_hinkley`. `jit` needs no name.

    Returns:
      An optimizer whose `update` needs `value`, the minibatch loss, and the parameters. Its state
      holds two copies of the parameters, the path and the snapshot, and with `momentum`, the
      default, a third.

    Raises:
      ValueError, TypeError: as `alera` and `page_hinkley`.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera()
      >>> @jax.jit
      ... def train_step(x, state):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     return salera_optax.step(tx, grads, state, x, value=loss)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(300):
      ...     x, state = train_step(x, state)
      >>> bool(jnp.abs(x).max() < 1e-3)
      True

    Source: arXiv 1709.01427, Algorithm 1, with the deviations of `alera` and `page_hinkley`.
    """
    return with_guard(
        alera(
            learning_rate,
            alpha=alpha,
            law=law,
            groups=groups,
            momentum=momentum,
            nesterov=nesterov,
            clip=clip,
            weight_decay=weight_decay,
            mask=mask,
            eps=eps,
            axis_name=axis_name,
        ),
        reset_path,
        factor=factor,
        rollback=rollback,
        detector=detector,
        axis_name=axis_name,
    )


def spalera(
    learning_rate: optax.ScalarOrSchedule,
    *,
    alpha: ArrayLike = 0.1,
    law: Law | None = None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    eps: ArrayLike = 1e-6,
    factor: ArrayLike = 0.5,
    rollback: bool = True,
    reset_path: bool = True,
    detector: Detector | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """SPALERA: one self-tuned rate per coordinate, under the guard of `page_hinkley`.

    One to experiment with: it does not find its rate. At the paper's robust setting, the default,
    the rates hardly move, and it does what guarded SGD does; `law=ratio(0.001)` moves them, but by
    the size of a coordinate's gradient beside the others' as much as by its agreement. `salera` and
    `salera_adamw` are the ones to start with.

    Every coordinate is a path of its own: with N the number of real coordinates of all parameters
    together, and norms over all of them::

        path_t = (1 - alpha) path_{t-1} + alpha g/||g||
        rate_t = rate_{t-1} exp(law(N path_t^2, alpha, t, 1))

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies.
      alpha: memory rate of the path, in (0, 1]; the paper's robust setting is 0.1.
      law: how a rate follows its coordinate of the path; None is `score(2.11e-8)`, the paper's
        robust C = 3e-8 in units of the exact deviation.
      momentum: as in `salera`, but by default there is none.
      nesterov: as in `salera`.
      weight_decay: as in `salera`.
      mask: as in `salera`.
      eps: where the norm of the whole gradient is at most this, the path only decays.
      factor: as in `salera`.
      rollback: as in `salera`.
      reset_path: as in `salera`.
      detector: as in `salera`.
      axis_name: as in `salera`.

    Returns:
      An optimizer whose `update` needs `value`, the minibatch loss, and the parameters. Its state
      holds three copies of the parameters, the path, the rates and the snapshot, and with
      `momentum` a fourth.

    Raises:
      ValueError, TypeError: as `alera` and `page_hinkley`.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.spalera(0.1)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     x, state = salera_optax.step(tx, grads, state, x, value=loss)
      >>> [round(float(xi), 2) for xi in x]
      [0.33, -0.66]

    Source: arXiv 1709.01427, Appendix B, Algorithm 2.
    """
    base = with_momentum(momentum, nesterov, by_default=False)
    rates = scale_by_parameterwise_alera(alpha, law, base=base, eps=eps, axis_name=axis_name)
    return with_guard(
        optax.chain(
            with_decay(weight_decay, mask, everywhere=False),
            rates,
            scaled_by_rate(learning_rate),
        ),
        reset_path,
        factor=factor,
        rollback=rollback,
        detector=detector,
        axis_name=axis_name,
    )
