"""The laws of the rate in plain NumPy float64, for the oracle."""

import math

import numpy as np

# The random walk -----------------------------------------------------------------------------


def path_mean(alpha, t):
    """Mean of ||path_t||^2 when the gradients are independent, uniform directions (Eq. 4)."""
    return alpha / (2 - alpha) * (1 - (1 - alpha) ** (2 * t))


def exact_std(alpha, d, t=math.inf):
    """Its standard deviation (Eq. 5, corrected)."""
    q = (1 - alpha) ** 2
    grown = 1.0 if t == math.inf else (1 - q**t) * (1 - q ** (t - 1))
    return math.sqrt(4 * alpha**2 * q / ((2 - alpha) ** 2 * (1 + q)) / d * grown)


def authors_std(alpha, d):
    """What the authors' code divides by instead."""
    return alpha / math.sqrt(d)


STD = {"exact": exact_std, "authors": authors_std}

# The laws of the rate ------------------------------------------------------------------------


class Score:
    """The paper's law (Eq. 6); it moves the rate in every step, with a gradient or without."""

    published = True

    def __init__(self, gain, std="exact"):
        self.gain, self.std = gain, STD[std]

    def __call__(self, squared_norm, alpha, t, d):
        return self.gain * (squared_norm - path_mean(alpha, t)) / self.std(alpha, d)


class Ratio:
    """The logarithm of the squared norm over its mean, less its own mean, damped by its deviation.

    The logarithm of a Gamma variable of mean 1 and deviation s has about the mean -s^2/2 - s^4/12.
    Three times as fast at first, while the path is a third of its memory old.
    """

    published = False

    def __init__(self, gain, rest=0.0):
        self.gain, self.rest = gain, rest

    def __call__(self, squared_norm, alpha, t, d):
        if squared_norm == 0:
            return 0.0
        s = exact_std(alpha, d, t) / path_mean(alpha, t)
        x = math.log(squared_norm / path_mean(alpha, t)) + s**2 / 2 + s**4 / 12
        x = min(max(x - self.rest, -2.0), 2.0)
        eager = min(max(1 / (alpha * t), 1.0), 3.0)
        return self.gain * eager * x * abs(x) / (abs(x) + s) if x else 0.0


class Lengths:
    """How long a step of the path is, and the squared norm that chance gives it.

    A gradient enters in proportion to its norm, up to the usual one; in the paper's path with 1.
    """

    def __init__(self, alpha, law, eps):
        self.alpha, self.law, self.eps = alpha, law, eps
        self.t, self.usual, self.chance = 0, 0.0, 0.0

    def weight(self, norm):
        """What the gradient is multiplied by."""
        self.t += 1
        square = min(norm**2, 100 * self.usual) if self.usual > 0 else norm**2
        self.usual += max(0.03, 1 / self.t) * (square - self.usual)
        self.chance *= (1 - self.alpha) ** 2
        if norm <= self.eps:
            return 0.0
        length = norm if self.law.published else max(norm, math.sqrt(self.usual))
        self.chance += (self.alpha * norm / length) ** 2
        return self.alpha / length

    def in_units_of_chance(self, squared):
        """A squared norm of the path, in the unit in which chance makes of it the mean of Eq. 4."""
        if self.law.published:
            return squared
        return squared * path_mean(self.alpha, self.t) / self.chance if self.chance > 0 else 0.0


def real_size(array):
    """How many real numbers it takes: a complex one is two."""
    return np.size(array) * (2 if np.iscomplexobj(array) else 1)


def squared_norm(arrays):
    """Sum of |.|^2 over every coordinate of every array."""
    return sum(np.sum(np.abs(array) ** 2) for array in arrays)
