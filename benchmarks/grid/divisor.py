"""What it costs to divide the rate at every alarm, by the divisor: Figure 3 of the paper."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

DIVISORS = (2, 12)
"""What is looked at; the formulas hold from 2 on."""

_ABOVE = np.log(2) - 0.5  # T of Appendix C, over all rates between the best and the largest


def dividing_cost(divisor: Any, alarm_cost: float) -> Any:
    """J of Eq. 12, as printed.

    The best rate is half of the largest that works. Divisions bring a rate that is too large to
    somewhere between 1/divisor of the largest and the largest, evenly spread; small steps of the
    logarithm then bring it to the best, up or down.

    Args:
      divisor: zeta, at least 2.
      alarm_cost: C, of the divisions by e that are needed, in steps of the other kind.

    Returns:
      J(zeta), without unit.
    """
    below = (divisor - 2) / (divisor - 1) / 2 * _below(divisor)
    above = divisor / (divisor - 1) / 2 * _ABOVE
    return alarm_cost / np.log(divisor) + below + above


def corrected_cost(divisor: Any, alarm_cost: float) -> Any:
    """The cost that Appendix C sets out to compute.

    Its U and T are integrals over the rates below and above the best. Eq. 12 weighs them by the
    probabilities of the two intervals as if they were means: divided by the lengths of the
    intervals, 1/2 - 1/divisor and 1/2, they are. That is the integral of both over the whole
    length, 1 - 1/divisor.
    """
    return alarm_cost / np.log(divisor) + (_below(divisor) + _ABOVE) / (1 - 1 / divisor)


def best_divisor(cost: Callable[[Any, float], Any], alarm_cost: float) -> float:
    """Where one of the two costs is least."""
    return float(minimize_scalar(cost, bounds=DIVISORS, args=(alarm_cost,), method="bounded").x)


def _below(divisor: Any) -> Any:
    """U of Appendix C: over all rates that are divided too far."""
    return 0.5 - np.log(divisor) / divisor - (1 - np.log(2)) / divisor
