"""Every optimizer, ours beside the plain NumPy version of `oracle.py`, with the same arguments."""

import dataclasses
from collections.abc import Callable

import numpy as np
import optax
import oracle
import oracle_laws

import salera_optax


@dataclasses.dataclass
class Case:
    """One optimizer, ours and the oracle's."""

    name: str
    ours: optax.GradientTransformation
    oracle: Callable[[dict[str, np.ndarray]], oracle.PageHinkley | oracle.Unguarded]
    is_complex: bool = False
    alarms: bool = False


GAINS = {"score": 0.02, "ratio": 0.1}


def laws(law, **arguments):
    """A law of the rate, ours and the oracle's."""
    gain = arguments.pop("gain", GAINS[law])
    ours = getattr(salera_optax, law)(gain, **arguments)
    return ours, getattr(oracle_laws, law.capitalize())(gain, **arguments)


def limits(params, learning_rate, law=None):
    """Those of `alera` and `salera`; the paper's law has none."""
    if law and law.published:
        return None
    return oracle.Limits(params, learning_rate, 0.0001, 0.001, of_gradient=True)


def adam_limits(params, learning_rate):
    """Those of `ag_adam` and `salera_adamw`."""
    return oracle.Limits(params, learning_rate, 0.0003, 0.003, of_gradient=False)


def alera_case(
    name, oracle_base=None, labels=None, *, law=(), is_complex=False, rate=0.05, **arguments
):
    ours, theirs = law or laws("ratio")
    arguments = {"alpha": 0.1, "law": ours, "momentum": None, "clip": None} | arguments

    def reference(params):
        part = oracle.Alera(
            params,
            0.1,
            theirs,
            labels,
            oracle_base and oracle_base(),
            clip=arguments["clip"],
            limits=limits(params, rate, theirs),
        )
        return oracle.Unguarded(oracle.Descent(part, rate, arguments.get("weight_decay", 0)))

    return Case(f"alera, {name}", salera_optax.alera(rate, **arguments), reference, is_complex)


def salera_case(name, oracle_base=None, *, law=(), is_complex=False, **arguments):
    """The published detector; law, `rollback`, `reset_path` and the detector's numbers vary."""
    ours, theirs = law or laws("score")
    guard = {"rollback": True, "reset_path": True} | arguments
    usual = {"alpha": 0.1, "law": ours, "momentum": None, "clip": None}
    tx = salera_optax.salera(0.05, **usual | with_published(guard))

    def reference(params):
        base, within = oracle_base and oracle_base(), limits(params, 0.05, theirs)
        part = oracle.Alera(params, 0.1, theirs, base=base, limits=within)
        descent = oracle.Descent(part, 0.05, arguments.get("weight_decay", 0))
        return oracle.PageHinkley(descent, **guard_of(guard))

    return Case(f"salera, {name}", tx, reference, is_complex, alarms=True)


def spalera_case(name, *, law=(), is_complex=False, **arguments):
    ours, theirs = law or laws("score", gain=0.002)
    guard = {"rollback": True, "reset_path": True} | arguments
    tx = salera_optax.spalera(0.05, law=ours, **with_published(guard))

    def reference(params):
        part = oracle.ParameterwiseAlera(params, 0.1, theirs)
        return oracle.PageHinkley(oracle.Descent(part, 0.05), **guard_of(guard))

    return Case(f"spalera, {name}", tx, reference, is_complex, alarms=True)


def with_published(arguments):
    """The arguments of one of ours, the numbers of the detector put into the detector itself."""
    names = ("smoothing", "threshold")
    numbers = {name: arguments[name] for name in names if name in arguments}
    others = {name: value for name, value in arguments.items() if name not in names}
    return {"detector": salera_optax.published(**numbers)} | others


def guard_of(arguments):
    """The oracle's guard of an alias: rates and base survive, the path may be forgotten."""
    names = ("smoothing", "threshold", "factor", "rollback")
    return {
        **{name: arguments[name] for name in names if name in arguments},
        "start_over": arguments["reset_path"],
    }


def wrapper_case(name, inner, oracle_part, learning_rate, **arguments):
    """The bare wrapper around an optimizer that knows nothing of it."""
    ours = salera_optax.page_hinkley(inner, **with_published(arguments))

    def reference(_):
        return oracle.PageHinkley(oracle.Descent(oracle_part(), learning_rate), **arguments)

    return Case(f"page_hinkley, {name}", ours, reference, alarms=True)


def adam_descent(params, labels=None, *, b1=0.9, b2=0.95, nesterov=True, weight_decay=1e-4):
    """That of `ag_adam` and `salera_adamw`."""
    base = oracle.Decayed(weight_decay, oracle.Adam(b1, b2, nesterov=nesterov))
    law, within = oracle_laws.Ratio(0.01, rest=-0.1), adam_limits(params, 0.02)
    part = oracle.Alera(params, 0.1, law, labels, base, limits=within, beside=True)
    return oracle.Descent(part, 0.02)


def ag_adam_case(name, labels=None, *, groups=None, is_complex=False, **arguments):
    def reference(params):
        return oracle.Unguarded(adam_descent(params, labels, **arguments))

    tx = salera_optax.ag_adam(0.02, alpha=0.1, groups=groups, **arguments)
    return Case(f"ag_adam, {name}", tx, reference, is_complex)


def salera_adamw_case(name, **arguments):
    """An alarm starts Adam over."""
    published = salera_optax.published()
    tx = salera_optax.salera_adamw(0.02, alpha=0.1, detector=published, **arguments)

    def reference(params):
        return oracle.PageHinkley(adam_descent(params, **arguments))

    return Case(f"salera_adamw, {name}", tx, reference, alarms=True)


def schedule(step):
    """A learning rate that depends on the step."""
    return 0.1 / (1 + 0.1 * step)


def scheduled_case():
    ours, theirs = laws("ratio")

    def reference(params):
        base = oracle.Momentum(0.9, nesterov=True)
        within = limits(params, schedule)
        part = oracle.Alera(params, 0.1, theirs, base=base, clip=4.0, limits=within)
        descent = oracle.Descent(part, schedule)
        return oracle.PageHinkley(descent)

    tx = salera_optax.salera(schedule, alpha=0.1, law=ours, detector=salera_optax.published())
    return Case("salera, learning rate on a schedule", tx, reference, alarms=True)


ONE = dict.fromkeys(("bias", "kernel", "scale"), "all")
TWO = {"bias": "outer", "kernel": "inner", "scale": "outer"}
CASES = [
    alera_case("a rate per leaf"),
    alera_case("the paper's law", law=laws("score")),
    alera_case("the authors' deviation", law=laws("score", std="authors")),
    alera_case("one rate", labels=ONE, groups="all"),
    alera_case("groups by labels", labels=TWO, groups=TWO),
    alera_case("groups by function", labels=TWO, groups=lambda _: TWO),
    alera_case("momentum", lambda: oracle.Momentum(0.9), momentum=0.9, nesterov=False),
    alera_case("Nesterov", lambda: oracle.Momentum(0.9, nesterov=True), momentum=0.9),
    alera_case("no outliers", lambda: oracle.Momentum(0.9), momentum=0.9, nesterov=False, clip=0.8),
    alera_case("no outliers in groups", labels=TWO, groups=TWO, clip=0.8),
    alera_case("weight decay", weight_decay=0.1),
    alera_case("a rate far too low", rate=1e-9),
    alera_case("complex leaves", is_complex=True),
    ag_adam_case("defaults"),
    ag_adam_case("plain Adam", b2=0.999, nesterov=False, weight_decay=0.0),
    ag_adam_case("own decay rates", b1=0.8, b2=0.9),
    ag_adam_case("one rate", ONE, groups="all"),
    ag_adam_case("weight decay", weight_decay=0.1),
    ag_adam_case("complex leaves", is_complex=True),
    salera_case("rollback, path forgotten"),
    salera_case("rollback, path kept", reset_path=False),
    salera_case(
        "momentum and weight decay",
        lambda: oracle.Momentum(0.9),
        momentum=0.9,
        nesterov=False,
        weight_decay=0.1,
    ),
    salera_adamw_case("defaults"),
    salera_adamw_case("decay and memory", weight_decay=0.1, b2=0.999),
    salera_adamw_case("without Nesterov", nesterov=False),
    salera_case("ratio", law=laws("ratio")),
    salera_case("no rollback, path forgotten", rollback=False),
    salera_case("no rollback, path kept", rollback=False, reset_path=False),
    salera_case("the paper", law=laws("score", std="authors"), reset_path=False, smoothing=0.02),
    salera_case("raw loss, high threshold", smoothing=1.0, threshold=0.5, factor=0.3),
    salera_case("complex leaves", is_complex=True),
    scheduled_case(),
    spalera_case("rollback, path forgotten"),
    spalera_case("ratio", law=laws("ratio", gain=0.01)),
    spalera_case(
        "the paper",
        law=laws("score", gain=0.002, std="authors"),
        reset_path=False,
        smoothing=0.02,
    ),
    spalera_case("no rollback, path kept", rollback=False, reset_path=False),
    spalera_case("complex leaves", is_complex=True),
    wrapper_case("gradient descent", optax.sgd(0.05), oracle.Plain, 0.05),
    wrapper_case("momentum", optax.sgd(0.05, 0.9), lambda: oracle.Momentum(0.9), 0.05),
    wrapper_case(
        "momentum, raw loss, high threshold",
        optax.sgd(0.05, 0.9),
        lambda: oracle.Momentum(0.9),
        0.05,
        smoothing=1.0,
        threshold=0.5,
        factor=0.3,
    ),
    wrapper_case("Adam", optax.adam(0.05), oracle.Adam, 0.05),
    wrapper_case("Adam, no rollback", optax.adam(0.05), oracle.Adam, 0.05, rollback=False),
]
