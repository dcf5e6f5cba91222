"""Effect sizes, and the sample size that a difference would need."""

import numpy as np

from interp.statistics.estimate import Estimate


def cohens_h(before: float, after: float) -> float:
    """Effect size of two proportions, 2 asin sqrt(after) - 2 asin sqrt(before): .2 is small, .5 medium, .8 large.

    Cohen, Statistical Power Analysis (1988), section 6.2.
    """
    return float(2 * (np.arcsin(np.sqrt(np.clip(after, 0, 1))) - np.arcsin(np.sqrt(np.clip(before, 0, 1)))))


def needed_units(difference: Estimate, units: int, bound: float, power: float = 0.8) -> int | None:
    """Number of units (for example questions) with which the interval would exclude `bound`, with probability `power`.

    It assumes that the true difference is the estimated one. The standard error is read from the interval, so it holds
    for clustered data, and falls with the root of the number of units: n = units ((z_.975 + z_power) SE /
    |difference - bound|)². None if the estimate equals the bound, or if there is no interval.
    """
    from scipy.stats import norm

    gap = abs(difference.value - bound)
    spread = (difference.high - difference.low) / (2 * norm.ppf(0.975))
    if not np.isfinite(spread) or gap == 0:
        return None
    return int(np.ceil(units * ((norm.ppf(0.975) + norm.ppf(power)) * spread / gap) ** 2))
