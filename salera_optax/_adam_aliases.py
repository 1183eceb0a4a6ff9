"""The ready-made optimizers on Adam's direction."""

from typing import Any

import optax
from jax.typing import ArrayLike

from salera_optax._alera import scale_by_alera
from salera_optax._alias_parts import scaled_by_rate, with_decay, with_guard, with_limits
from salera_optax._averaging import polynomial_averaging
from salera_optax._detectors import Detector
from salera_optax._devices import AxisName
from salera_optax._groups import Groups
from salera_optax._laws import Law, Published, ratio
from salera_optax._validation import check_number

_FIRST = (0.0003, 0.003)  # length of the first step, as of `with_limits`
_REST = -0.1  # of the rates


def _of_adam(state: Any) -> Any:
    """Its second moment, of the state of the base of `ag_adam`."""
    return state[0].nu


def ag_adam(
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
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW that finds its learning rate: ALERA's self-tuned rate on the direction of Adam.

    Use it where the loss cannot be had in the training loop; `salera_adamw`, the same with a guard,
    is the better choice otherwise, for the rate may rise until the loss explodes. In the paper,
    which calls it Ag-Adam, it is Adam without Nesterov's momentum and weight decay; the paper's
    `b2` of 0.999 remembers the tiny gradients of a network that has learned its examples for so
    long that the next large one can end the run.

    Gradients agree in the units in which Adam steps: the path sees them divided by the fourth root
    of the second moment, as long as before. Steps stay small beside the parameters, as those of
    `alera`, but the first is from 0.0003 to 0.003 of their root mean square: Adam's direction is as
    long as momentum makes it already.

    Args:
      learning_rate: initial rate eta_0, finite and at least 0, or an Optax schedule that the
        self-tuned rate multiplies. Leave it: it counts only as far as those limits let it. A rate
        of 0 stays 0.
      b1: decay of Adam's first moment, in [0, 1].
      b2: decay of Adam's second moment, in [0, 1].
      eps: Adam's epsilon, added to the root of the second moment (that of ALERA is 1e-6).
      eps_root: added under that root.
      mu_dtype: dtype of the first moment, None for that of the parameters.
      weight_decay: decoupled weight decay, finite and at least 0, or an Optax schedule; multiplied
        by the learning rate and by the self-tuned rate of the leaf.
      mask: pytree of booleans, or function to one, of the leaves that decay; None for all.
      nesterov: whether Adam takes Nesterov's momentum.
      alpha: memory rate of the path, in (0, 1]; the paper's robust setting is 0.001, with its law.
      law: how a rate follows its path; None is `ratio(rest=-0.1)`: the rates rest where gradients
        begin to contradict one another. `score(...)` is the paper's, and `scale_by_alera` tells how
        to write one.
      groups: leaves that share a rate: None for one per leaf; "all" for one rate; a pytree of
        strings that is a prefix of the parameters; or a function to one, such as `by_module`.
      axis_name: inside `shard_map` or `pmap`, the name or names of the axes of the devices, over
        which norms are taken; see `alera`. `jit` needs no name.

    Returns:
      An optimizer whose `update` needs the parameters, but without weight decay. Its state holds
      three copies of them: the path and Adam's moments.

    Raises:
      ValueError, TypeError: as `alera`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, salera_optax
      >>> tx = salera_optax.ag_adam()
      >>> x = jnp.array([1.0, -2.0])
      >>> state = tx.init(x)
      >>> for _ in range(300):
      ...     grads = jax.grad(lambda x: jnp.sum(x**2))(x)
      ...     updates, state = tx.update(grads, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.abs(x).max() < 0.1)
      True

    Source: arXiv 1709.01427, Section 3.3. Deviations: the law, and the units of its path; Optax's
    Adam adds eps after the bias correction, the authors' before it.
    """
    for name, decay in (("b1", b1), ("b2", b2)):  # 1 is what bfloat16 makes of 0.999
        check_number(name, decay, lambda b: 0 <= b <= 1, "in [0, 1]")
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    base = optax.chain(adam, with_decay(weight_decay, mask, everywhere=True))
    law = ratio(rest=_REST) if law is None else law
    rates = scale_by_alera(
        alpha,
        law,
        groups=groups,
        base=base,
        second_moment=None if isinstance(law, Published) else _of_adam,
        axis_name=axis_name,
    )
    chain = optax.chain(rates, scaled_by_rate(learning_rate))
    return with_limits(chain, learning_rate, law, _FIRST, axis_name, of_gradient=False)


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
    `ag_adam`, and `page_hinkley` stands guard. What `optax.adamw` takes has the same name, meaning
    and default here, but for `nesterov`, which is on, and `b2`, whose shorter memory suits a rate
    that changes. Where a step was to blame for an alarm, Adam's moments and the paths start over,
    and the rates stay.

    Args:
      learning_rate: initial rate, finite and at least 0, or an Optax schedule that the self-tuned
        rate multiplies. Leave it: the runs end much alike. The first step is from 0.0003 to 0.003
        of the root mean square of all parameters, per weight, whatever it is; see `ag_adam` and
        `alera`. A rate of 0 stays 0.
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
    1711.05101, for the direction. Deviations: the law, and the units of its path.
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
        law=law,
        groups=groups,
        axis_name=axis_name,
    )
    return with_guard(
        optax.chain(adam, polynomial_averaging()) if average else adam,
        reset_path,
        factor=factor,
        rollback=rollback,
        detector=detector,
        axis_name=axis_name,
    )
