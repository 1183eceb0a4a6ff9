"""The ready-made optimizers, each a chain of parts."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from salera_optax._alera import scale_by_alera
from salera_optax._arrays import (
    copied,
    incremented,
    real_size,
    scaled,
    squared_norms,
    statistics_dtype,
)
from salera_optax._averaging import polynomial_averaging
from salera_optax._detectors import Detector
from salera_optax._devices import AxisName, varying
from salera_optax._groups import Groups
from salera_optax._laws import Law, ratio
from salera_optax._page_hinkley import page_hinkley
from salera_optax._parameterwise import scale_by_parameterwise_alera
from salera_optax._validation import check_number

# The first steps of Adam have the length of the rate in every weight, whatever the gradient. If
# that is much beside the weights, units are lost before a loss could tell.
_START = 0.003  # of the root mean square of all parameters
_REST = -0.1  # of the rates of `salera_adamw`
_FROM_ZERO = (lambda x: 0 <= x < math.inf), "finite and at least 0"


class LearningRateState(NamedTuple):
    """State of the base learning rate of an alias, which `metrics` reads.

    Attributes:
      step: int32 scalar, the steps taken, the argument of a schedule.
      learning_rate: the base learning rate of the last step, a float32 or wider scalar.
    """

    step: jax.Array
    learning_rate: jax.Array


def _scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """Optax's `scale_by_learning_rate`, which also remembers the rate."""
    schedule: Any = learning_rate
    if not callable(schedule):
        check_number("learning_rate", schedule, *_FROM_ZERO)

    def rate_at(step: jax.Array, dtype: Any) -> jax.Array:
        rate = schedule(step) if callable(schedule) else schedule
        return jnp.array(rate, dtype, copy=True)  # never the caller's buffer

    def init_fn(params: Any) -> LearningRateState:
        step = jnp.zeros((), jnp.int32)
        return LearningRateState(step, rate_at(step, statistics_dtype(params)))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, LearningRateState]:
        del params
        rate = rate_at(state.step, state.learning_rate.dtype)
        updates = jax.tree.map(lambda u: scaled(u, -rate, u), updates)
        return updates, LearningRateState(incremented(state.step), rate)

    return optax.GradientTransformation(init_fn, update_fn)


def _momentum(momentum: ArrayLike | None, nesterov: bool) -> optax.GradientTransformation:
    if momentum is None:
        if nesterov:
            raise ValueError("nesterov must be False without a momentum, got True.")
        return optax.identity()
    check_number("momentum", momentum, lambda decay: 0 <= decay < 1, "in [0, 1)")
    return optax.trace(momentum, nesterov)


def _decay(
    weight_decay: optax.ScalarOrSchedule, mask: Any, *, everywhere: bool
) -> optax.GradientTransformation:
    """Adds the decay, and if not `everywhere`, only where there is something to add it to.

    At the minimum of loss and decay together the gradient and the decay cancel. A path that saw the
    gradient alone would see it agree with itself there, and the rate would rise for ever: it has to
    see both. But where there is no gradient nothing would oppose the decay.
    """
    if not callable(weight_decay):
        check_number("weight_decay", weight_decay, *_FROM_ZERO)
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return optax.identity()
    decay = optax.add_decayed_weights(weight_decay, mask)
    if everywhere:
        return decay

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        decayed, state = decay.update(updates, state, params)
        return jax.tree.map(lambda u, d: jnp.where(u == 0, u, d), updates, decayed), state

    return optax.GradientTransformation(decay.init, update_fn)


def _started(
    adam: optax.GradientTransformationExtraArgs, axis_name: AxisName
) -> optax.GradientTransformationExtraArgs:
    """`ag_adam` whose first rate is at most `_START` in units of the parameters."""

    def init_fn(params: Any) -> Any:
        state: Any = adam.init(params)
        leaves = jax.tree.leaves(params)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves) or not leaves:
            return state
        # Inside `shard_map` a leaf may be a part of a whole, outside of it none is.
        inside = axis_name if any(map(varying, leaves)) else None
        dtype = statistics_dtype(params)
        square = sum(jnp.asarray(s, dtype) for s in squared_norms(params, inside, params))
        size = float(max(sum(real_size(leaf, inside) for leaf in leaves), 1))
        rate = state[1].learning_rate
        share = _START * jnp.sqrt(square / size) / jnp.where(rate > 0, rate, 1)
        first = jnp.where((share > 0) & (share < 1) & (rate > 0), jnp.log(share), 0)
        log_rate = copied(dict.fromkeys(state[0].log_rate, first))
        return (state[0]._replace(log_rate=log_rate), *state[1:])

    return optax.GradientTransformationExtraArgs(init_fn, adam.update)


def _unchanged(inner_state: Any) -> Any:
    return inner_state


def _guarded(
    optimizer: optax.GradientTransformation, reset_path: bool, **arguments: Any
) -> optax.GradientTransformationExtraArgs:
    """The guard of the aliases, at whose alarms the optimizer starts over, or remembers all."""
    return page_hinkley(optimizer, on_alarm=None if reset_path else _unchanged, **arguments)


def alera(
    learning_rate: optax.ScalarOrSchedule,
    *,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    eps: ArrayLike = 1e-6,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """ALERA: SGD whose learning rate, one per group of leaves, tunes itself.

    Use it where the loss cannot be had in the training loop; `salera`, the same with a guard, is
    the better choice otherwise, for the rate may rise until the loss explodes.

    Per group of dimension d, with the raw gradient g, in step t::

        path_t = (1 - alpha) path_{t-1} + alpha g/max(||g||, usual ||g||)
        rate_t = rate_{t-1} exp(law(||path_t||^2, alpha, t, d))
        update = -learning_rate rate_t base(g)

    with g/||g|| under the paper's law. The usual norm is a running root mean square, so that many
    tiny gradients do not outvote a few large ones. The law compares the path with a random walk's
    (`path_mean`, `path_std`), made of steps of the same lengths: the rate goes up
    while successive gradients agree more than chance would have it, and down while they agree
    less. Where ||g|| <= eps the path only decays, and the rate stays.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies. From far too low a rate it takes some hundreds of steps to
        arrive; far too large a one can kill the units of a network before the first alarm.
      alpha: memory rate of the path, in (0, 1]; it averages over about 1/alpha gradients.
      law: how a rate follows its path; None is `ratio()`, `score(...)` is the paper's, and
        `scale_by_alera` tells how to write one. (With `optax.inject_hyperparams`, which takes
        functions for schedules, name it in `static_args`.)
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function from parameters to one, such as
        `by_module` (the paper's layers).
      momentum: decay of a momentum in [0, 1), or None; the path still sees the raw gradient.
      nesterov: whether the momentum is Nesterov's.
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
      An optimizer. Its state holds one copy of the parameters, float32 or wider, a scalar per
      group, and with `momentum` a further copy. The updates have the dtype of the parameters.

    Raises:
      ValueError: if a number is out of range or the labels do not cover the parameters.
      TypeError: if a leaf of the parameters is not floating-point, or the law no function.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = salera_optax.alera(0.01)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     grads = jax.grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> [round(float(xi), 2) for xi in x]
      [0.9, -1.8]

    Source: arXiv 1709.01427, Section 3.1, Algorithm 1. Deviation: the law.
    """
    base = _momentum(momentum, nesterov)
    rates = scale_by_alera(alpha, law, groups=groups, base=base, eps=eps, axis_name=axis_name)
    return optax.chain(
        _decay(weight_decay, mask, everywhere=False), rates, _scale_by_learning_rate(learning_rate)
    )


def salera(
    learning_rate: optax.ScalarOrSchedule,
    *,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
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
    """SALERA: `alera` under the guard of `page_hinkley`.

    For networks that SGD trains well; `salera_adamw` is the one to start with otherwise. No
    learning rate to tune, and a run that survives an explosion. Pass the minibatch loss:
    `tx.update(grads, state, params, value=loss)`, or `salera_optax.step`.

    At a catastrophe the parameters go back to the last ones that nothing spoke against, every step
    is halved, the rates stay, and the paths are forgotten: a remembered path inflates the rate
    again at once.

    The published algorithm is::

        salera(0.01, law=score(3e-6, std="authors"), groups=by_module,
               detector=published(minibatch/training_set), reset_path=False)

    and its authors' code also has `rollback=False`.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies.
      alpha: memory rate of the path, in (0, 1]; it averages over about 1/alpha gradients.
      law: how a rate follows its path; None is `ratio()`, `score(...)` is the paper's, and
        `scale_by_alera` tells how to write one.
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function to one, such as `by_module`.
      momentum: decay of a momentum in [0, 1), or None; `reset_path` resets it too.
      nesterov: whether the momentum is Nesterov's.
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
      holds two copies of the parameters, the path and the snapshot, and with `momentum` a third.

    Raises:
      ValueError, TypeError: as `alera` and `page_hinkley`.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera(1000.0)  # far too large
      >>> @jax.jit
      ... def train_step(x, state):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     return salera_optax.step(tx, grads, state, x, value=loss)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(300):
      ...     x, state = train_step(x, state)
      >>> bool(jnp.abs(x).max() < 1e-3), bool(state.alarms > 5)
      (True, True)

    Source: arXiv 1709.01427, Algorithm 1, with the deviations of `alera` and `page_hinkley`.
    """
    return _guarded(
        alera(
            learning_rate,
            alpha=alpha,
            law=law,
            groups=groups,
            momentum=momentum,
            nesterov=nesterov,
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
      momentum: as in `salera`.
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
    base = _momentum(momentum, nesterov)
    rates = scale_by_parameterwise_alera(alpha, law, base=base, eps=eps, axis_name=axis_name)
    return _guarded(
        optax.chain(
            _decay(weight_decay, mask, everywhere=False),
            rates,
            _scale_by_learning_rate(learning_rate),
        ),
        reset_path,
        factor=factor,
        rollback=rollback,
        detector=detector,
        axis_name=axis_name,
    )


def ag_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any = None,
    nesterov: bool = False,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Ag-Adam: ALERA's self-tuned rate on the direction of Adam.

    `salera_adamw` is the same with weight decay and a guard, and the better choice wherever the
    loss can be had in the training loop.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies.
      b1: decay of Adam's first moment, in [0, 1].
      b2: decay of Adam's second moment, in [0, 1].
      eps: Adam's epsilon, added to the root of the second moment (that of ALERA is 1e-6).
      eps_root: added under that root.
      mu_dtype: dtype of the first moment, None for that of the parameters.
      weight_decay: decoupled weight decay; see `salera_adamw`.
      mask: pytree of booleans, or function to one, of the leaves that decay; None for all.
      nesterov: whether Adam takes Nesterov's momentum.
      alpha: memory rate of the path, in (0, 1]; the paper's robust setting is 0.001, with its law.
      law: how a rate follows its path; None is `ratio()`, `score(...)` is the paper's, and
        `scale_by_alera` tells how to write one.
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function to one, such as `by_module`.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices, over
        which norms are taken; see `alera`. `jit` needs no name.

    Returns:
      An optimizer. Its state holds three copies of the parameters, the path and Adam's moments.

    Raises:
      ValueError, TypeError: as `alera`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = salera_optax.ag_adam(0.1)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(5):
      ...     grads = jax.grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> [round(float(xi), 1) for xi in x]
      [0.5, -1.5]

    Source: arXiv 1709.01427, Section 3.3. Deviations: the law; Optax's Adam adds eps after the bias
    correction, the authors' before it.
    """
    for name, decay in (("b1", b1), ("b2", b2)):  # 1 is what bfloat16 makes of 0.999
        check_number(name, decay, lambda b: 0 <= b <= 1, "in [0, 1]")
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    base = optax.chain(adam, _decay(weight_decay, mask, everywhere=True))
    rates = scale_by_alera(alpha, law, groups=groups, base=base, axis_name=axis_name)
    return optax.chain(rates, _scale_by_learning_rate(learning_rate))


def salera_adamw(
    learning_rate: optax.ScalarOrSchedule = 1e-4,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any = None,
    nesterov: bool = True,
    alpha: ArrayLike = 0.01,
    law: Law | None = None,
    groups: Groups = None,
    factor: ArrayLike = 0.5,
    rollback: bool = True,
    reset_path: bool = True,
    detector: Detector | None = None,
    average: bool = False,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW that finds its learning rate, and survives a loss explosion.

    The one to start with: in place of `optax.adamw(learning_rate)`, without a search for the rate
    and without a warm-up, for it starts low and climbs. Pass the minibatch loss:
    `tx.update(grads, state, params, value=loss)`, or `salera_optax.step`.

    The direction is Adam's, with decoupled weight decay; its rate, one for each leaf, is that of
    `alera`, and `page_hinkley` stands guard. What `optax.adamw` takes has the same name, meaning
    and default here, but for `nesterov`, which is on, and `b2`, whose shorter memory suits a rate
    that changes. Where a step was to blame for an alarm, Adam's moments and the paths start over,
    and the rates stay.

    Args:
      learning_rate: initial rate, finite and at least 0, or an Optax schedule that the self-tuned
        rate multiplies. Leave it: from 1e-4 on the runs end much alike. For where it is more than
        0.003 of the root mean square of all parameters, unless they are zero, that is the initial
        rate, in place of a warm-up. Of a schedule the first value counts.
      b1: decay of Adam's first moment, in [0, 1].
      b2: decay of Adam's second moment, in [0, 1].
      eps: added to the root of the second moment.
      eps_root: added under that root.
      mu_dtype: dtype of the first moment, None for that of the parameters.
      weight_decay: decoupled weight decay, finite and at least 0, or an Optax schedule; multiplied
        by the learning rate and by the self-tuned rate of the leaf.
      mask: pytree of booleans, or function to one, of the leaves that decay; None for all.
      nesterov: whether Adam takes Nesterov's momentum.
      alpha: memory rate of the path, in (0, 1]; it averages over about 1/alpha gradients.
      law: how a rate follows its path; None is `ratio(rest=-0.1)`: the rates rest where gradients
        begin to contradict one another. `score(...)` is the paper's, and `scale_by_alera` tells how
        to write one.
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function to one, such as `by_module`.
      factor: as in `salera`.
      rollback: as in `salera`.
      reset_path: whether path, step, moments and average are forgotten where a step was to blame
        for an alarm; the rates stay.
      detector: as in `salera`.
      average: whether the parameters are averaged along the run, for `eval_params`, which are often
        the better ones to evaluate; see `polynomial_averaging`.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices, so that
        all decide alike; see `page_hinkley`. `jit` needs no name.

    Returns:
      An optimizer whose `update` needs `value`, the minibatch loss, and the parameters. Its state
      holds four copies of the parameters: Adam's moments, the path and the snapshot; with
      `average` five.

    Raises:
      ValueError, TypeError: as `alera` and `page_hinkley`.

    Example:
      >>> import jax, jax.numpy as jnp, salera_optax
      >>> tx = salera_optax.salera_adamw()
      >>> @jax.jit
      ... def train_step(x, state):
      ...     loss, grads = jax.value_and_grad(lambda x: jnp.sum(x**2))(x)
      ...     return salera_optax.step(tx, grads, state, x, value=loss)
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(500):
      ...     x, state = train_step(x, state)
      >>> bool(jnp.abs(x).max() < 0.1)
      True

    Source: arXiv 1709.01427, Section 3, for the rates and the guard; Loshchilov and Hutter, arXiv
    1711.05101, for the direction. Deviation: the law.
    """
    adam = ag_adam(
        learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        mask=mask,
        nesterov=nesterov,
        alpha=alpha,
        law=ratio(rest=_REST) if law is None else law,
        groups=groups,
        axis_name=axis_name,
    )
    started = _started(adam, axis_name)
    return _guarded(
        optax.chain(started, polynomial_averaging()) if average else started,
        reset_path,
        factor=factor,
        rollback=rollback,
        detector=detector,
        axis_name=axis_name,
    )
