"""What it costs to divide the rates at every alarm, by the divisor: Figure 3 of the paper."""

from typing import Any

import numpy as np
from scipy.special import lambertw


def dividing_cost(divisor: Any, alarm_cost: float) -> Any:
    """Expected cost of dividing the rate by `divisor` at every alarm.

    A rate too large by an unknown factor, its logarithm spread evenly over a range, needs
    range / ln(divisor) alarms, and then lies below the largest that works by a factor of up to
    `divisor`, (divisor - 1) / ln(divisor) in the mean, by which the rest of the run is slower:

        J = (alarm_cost + divisor - 1) / ln(divisor)

    Args:
      divisor: zeta, greater than 1.
      alarm_cost: what all alarms of a divisor e cost together, over the length of the run.

    Returns:
      J(zeta), without unit.
    """
    return (alarm_cost + divisor - 1) / np.log(divisor)


def best_divisor(alarm_cost: float) -> float:
    """Where `dividing_cost` is least: zeta (ln(zeta) - 1) = alarm_cost - 1, by Lambert's W."""
    return float(np.exp(1 + lambertw((alarm_cost - 1) / np.e).real))
