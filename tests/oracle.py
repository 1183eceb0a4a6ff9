"""Every algorithm of the library in plain NumPy float64: slow, obvious, and independent of it.

Written from the equations of the paper (arXiv 1709.01427), with the corrections that the library
documents. Trees are dictionaries from a name to an array; an object is one optimizer part and keeps
its own state; one method call is one training step.
"""

import math

import numpy as np
from oracle_laws import Lengths, real_size, squared_norm

TINY = np.finfo(np.float32).tiny

# Base directions, as Optax defines them ------------------------------------------------------


class Plain:
    """The gradient itself."""

    def direction(self, grads, params):
        return grads

    def forget(self):
        """Nothing to forget."""


class Momentum:
    """`optax.trace`."""

    def __init__(self, decay, nesterov=False):
        self.decay, self.nesterov, self.trace = decay, nesterov, None

    def forget(self):
        """Start over."""
        self.trace = None

    def direction(self, grads, params):
        old = self.trace or dict.fromkeys(grads, 0.0)
        self.trace = {k: g + self.decay * old[k] for k, g in grads.items()}
        if not self.nesterov:
            return self.trace
        return {k: g + self.decay * self.trace[k] for k, g in grads.items()}


class Adam:
    """`optax.scale_by_adam`."""

    def __init__(self, b1=0.9, b2=0.999, eps=1e-8, *, nesterov=False):
        self.b1, self.b2, self.eps, self.nesterov = b1, b2, eps, nesterov
        self.forget()

    def forget(self):
        """Start over."""
        self.t, self.mu, self.nu = 0, None, None

    def second_moment(self, grads):
        """Its second moment once these gradients are in it."""
        nu = self.nu or dict.fromkeys(grads, 0.0)
        return {k: self.b2 * nu[k] + (1 - self.b2) * np.abs(g) ** 2 for k, g in grads.items()}

    def direction(self, grads, params):
        mu = self.mu or dict.fromkeys(grads, 0.0)
        self.t += 1
        self.mu = {k: self.b1 * mu[k] + (1 - self.b1) * g for k, g in grads.items()}
        self.nu = self.second_moment(grads)
        mu_hat = {k: m / (1 - self.b1**self.t) for k, m in self.mu.items()}
        if self.nesterov:
            ahead = {k: self.b1 * m / (1 - self.b1 ** (self.t + 1)) for k, m in self.mu.items()}
            new = (1 - self.b1) / (1 - self.b1**self.t)
            mu_hat = {k: m + new * grads[k] for k, m in ahead.items()}
        nu_hat = {k: v / (1 - self.b2**self.t) for k, v in self.nu.items()}
        return {k: mu_hat[k] / (np.sqrt(nu_hat[k]) + self.eps) for k in grads}


class Decayed:
    """Decoupled weight decay behind another base: `optax.add_decayed_weights`."""

    def __init__(self, weight_decay, base=None):
        self.weight_decay, self.base = weight_decay, base or Plain()

    def forget(self):
        """Make the other base start over."""
        self.base.forget()

    def second_moment(self, grads):
        """That of the other base."""
        return self.base.second_moment(grads)

    def direction(self, grads, params):
        base = self.base.direction(grads, params)
        return {k: base[k] + self.weight_decay * params[k] for k in grads}


# ALERA ---------------------------------------------------------------------------------------


class Limits:
    """How long a step may be, per weight, beside the root mean square of all parameters.

    The first one is to be between two shares of it; the limits open by e^0.06 in every step, up to
    0.12 of it. Below a schedule there is none. Alarms do not bring them back.
    """

    def __init__(self, params, learning_rate, least, most, *, of_gradient):
        self.learning_rate, self.of_gradient, self.t = learning_rate, of_gradient, 0
        self.least, self.most = 0.0 if callable(learning_rate) else least, most
        self.limited = squared_norm(params.values()) > 0

    def begin(self, params):
        """A step from these parameters."""
        eta = self.learning_rate
        self.eta = eta(self.t) if callable(eta) else eta
        size = math.sqrt(squared_norm(params.values()) / sum(map(real_size, params.values())))
        self.low = size * self.least * math.exp(-0.06 * self.t)
        self.high = size * min(0.12, self.most * math.exp(0.06 * self.t))
        self.t += 1

    def kept(self, rate, usual, d):
        """That multiplier within the limits, for a group of usual mean square `usual`."""
        unit = self.eta * (math.sqrt(usual / d) if self.of_gradient else 1.0)
        return min(max(rate, self.low / unit), self.high / unit) if self.limited else rate


class Alera:
    """One rate for each group of leaves (Algorithm 2; eta_0 enters once)."""

    def __init__(
        self,
        params,
        alpha,
        law,
        labels=None,
        base=None,
        eps=1e-6,
        clip=None,
        limits=None,
        *,
        beside=False,
    ):
        self.alpha, self.law, self.eps, self.clip, self.limits = alpha, law, eps, clip, limits
        self.beside = beside
        self.labels = labels or {k: k for k in params}
        self.base = base or Plain()
        self.rate = dict.fromkeys(self.labels.values(), 1.0)
        self.sizes = {k: real_size(p) for k, p in params.items()}
        self.start = {k: np.zeros_like(p) for k, p in params.items()}
        self.forget()

    def forget(self):
        """Path and step back to zero, and the base starts over; the rates stay."""
        self.t = 0
        self.path = dict(self.start)
        self.lengths = {label: Lengths(self.alpha, self.law, self.eps) for label in self.rate}
        self.base.forget()

    def direction(self, grads, params):
        self.t += 1
        if self.limits:
            self.limits.begin(params)
        clipped = dict(grads)
        for label in self.rate:
            leaves = [k for k in grads if self.labels[k] == label]
            d = sum(self.sizes[k] for k in leaves)
            norm = math.sqrt(squared_norm(grads[k] for k in leaves))
            longest = (self.clip or math.inf) * (math.sqrt(self.lengths[label].usual) or math.inf)
            usual = self.lengths[label].usual
            weight = self.lengths[label].weight(norm)
            longest = longest if norm > self.eps else math.inf
            if norm > longest:  # the rate falls as far as the usual norm rises
                self.rate[label] *= min(1, math.sqrt(usual / self.lengths[label].usual))
            seen = {k: grads[k] for k in leaves}
            if self.beside:  # the metric of Adam's steps, and the norm of the gradient
                nu = self.base.second_moment(grads)
                least = {k: 1e-30 * squared_norm([g]) + TINY for k, g in seen.items()}
                seen = {k: g / (nu[k] + least[k]) ** 0.25 for k, g in seen.items()}
                length = math.sqrt(squared_norm(seen.values()))
                seen = {k: g * (norm / length if length else 1) for k, g in seen.items()}
            for k in leaves:
                clipped[k] = grads[k] * min(1, longest / norm if norm else 1)
                self.path[k] = (1 - self.alpha) * self.path[k] + weight * seen[k]
            if norm > self.eps or self.law.published:
                squared = squared_norm(self.path[k] for k in leaves)
                squared = self.lengths[label].in_units_of_chance(squared)
                self.rate[label] *= math.exp(self.law(squared, self.alpha, self.t, d))
            if self.limits and (norm > self.eps or not self.limits.of_gradient):
                usual = self.lengths[label].usual
                self.rate[label] = self.limits.kept(self.rate[label], usual, d)
        base = self.base.direction(clipped, params)
        return {k: self.rate[self.labels[k]] * base[k] for k in grads}


class ParameterwiseAlera:
    """One rate for each coordinate, one path over the whole tree (Appendix B)."""

    def __init__(self, params, alpha, law, base=None, eps=1e-6):
        self.alpha, self.law, self.eps = alpha, law, eps
        self.base = base or Plain()
        self.rate = {k: np.ones(np.shape(p)) for k, p in params.items()}
        self.n = sum(real_size(p) for p in params.values())
        self.start = {k: np.zeros_like(p) for k, p in params.items()}
        self.forget()

    def forget(self):
        """Path and step back to zero, and the base starts over; the rates stay."""
        self.t = 0
        self.path = dict(self.start)
        self.lengths = Lengths(self.alpha, self.law, self.eps)
        self.base.forget()

    def direction(self, grads, params):
        self.t += 1
        weight = self.lengths.weight(math.sqrt(squared_norm(grads.values())))
        norm = math.sqrt(squared_norm(grads.values()))
        for k, g in grads.items():
            self.path[k] = (1 - self.alpha) * self.path[k] + weight * g
            if norm > self.eps or self.law.published:
                # Each coordinate as a path of its own; a complex one has two of the n shares.
                d = 2 if np.iscomplexobj(g) else 1
                each = np.abs(self.path[k]) ** 2 * self.n / d
                units = [self.lengths.in_units_of_chance(x) for x in np.ravel(each)]
                changes = [self.law(x, self.alpha, self.t, d) for x in units]
                self.rate[k] = self.rate[k] * np.exp(np.reshape(changes, np.shape(each)))
        base = self.base.direction(grads, params)
        return {k: self.rate[k] * base[k] for k in grads}


# Optimizers ----------------------------------------------------------------------------------


class Descent:
    """Steps against `direction`, at a learning rate that is a number or a function of the step.

    `penalty` is the weight decay that is added to the gradient, where there is one.
    """

    def __init__(self, part, learning_rate, penalty=0.0):
        self.part, self.learning_rate, self.penalty, self.steps = part, learning_rate, penalty, 0

    def update(self, params, grads):
        grads = {k: g + np.where(g == 0, 0, self.penalty * params[k]) for k, g in grads.items()}
        direction = self.part.direction(grads, params)
        eta = self.learning_rate(self.steps) if callable(self.learning_rate) else self.learning_rate
        self.steps += 1
        return {k: -eta * direction[k] for k in params}


class Unguarded:
    """Takes every step."""

    def __init__(self, inner):
        self.inner = inner

    def step(self, params, grads, loss):
        """One training step: the parameters after it."""
        update = self.inner.update(params, grads)
        return {k: params[k] + update[k] for k in params}


class PageHinkley:
    """The guard, as published: L and its minimum kept apart, as in the paper's text."""

    def __init__(
        self,
        inner,
        smoothing=0.1,
        threshold=0.1,
        factor=0.5,
        rollback=True,
        start_over=True,
    ):
        self.inner, self.smoothing, self.threshold, self.factor = (
            inner,
            smoothing,
            threshold,
            factor,
        )
        self.rollback, self.start_over = rollback, start_over
        self.scale, self.alarms, self.alarm, self.on_trial = 1.0, 0, False, False
        self.reference = self.before = None
        self.restart()

    def restart(self):
        """Forget the losses seen, not the first one."""
        self.n = 0
        self.smoothed = self.average = self.level = self.lowest = 0.0

    def step(self, params, grads, loss):
        """One training step: the parameters after it."""
        if self.reference is None:
            self.reference = loss
        n, rho = self.n, self.smoothing
        if n <= 1 / rho:
            self.smoothed = (n * self.smoothed + loss) / (n + 1)
        else:
            self.smoothed = (1 - rho) * self.smoothed + rho * loss
        self.average = (n * self.average + self.smoothed) / (n + 1)
        self.level += self.smoothed - self.average
        self.lowest = min(self.lowest, self.level)
        self.alarm = self.level - self.lowest > self.threshold * self.reference
        if self.alarm:
            self.alarms += 1
            self.scale *= self.factor
            self.restart()
            if self.rollback:
                self.on_trial = True
            elif self.start_over:
                self.inner.part.forget()
            return self.before if self.rollback and self.before is not None else params
        if self.on_trial and self.start_over:  # the loss is normal again: the step was to blame
            self.inner.part.forget()
        self.on_trial = False
        self.n += 1
        self.before = params
        update = self.inner.update(params, grads)
        return {k: params[k] + self.scale * update[k] for k in params}
