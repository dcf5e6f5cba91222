"""A t test of a ratio over clusters, and the interval that inverts it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from interp.statistics.bootstrap import cluster_of, guarded
from interp.statistics.estimate import Estimate, FloatArray


class RatioTest(NamedTuple):
    """A ratio compared with a given value."""

    ratio: Estimate
    """The ratio with its 95% interval."""
    above: float
    """One-sided p that the ratio is at most the given value."""
    below: float
    """One-sided p that the ratio is at least the given value."""


def ratio_t_test(top: FloatArray, bottom: FloatArray, clusters: Sequence[object], null: float) -> RatioTest:
    """sum(top) / sum(bottom) against `null`: does top - null * bottom have a mean of zero over clusters?

    The interval holds the values that this t test does not reject at p < .05, two-sided (Fieller, Some problems in
    interval estimation, 1954), so it lies above `null` exactly where `above` < .025. The interval is NaN for too few
    clusters, and where no finite one exists.
    """
    # Not from scipy.stats, which takes .2 s to import.
    from scipy.special import stdtr, stdtrit

    member = cluster_of(clusters)
    over, under = (np.bincount(member, np.asarray(values, float)) for values in (top, bottom))
    # A single cluster has no variance, and several may have none, about which scipy would warn.
    with np.errstate(divide="ignore", invalid="ignore"):
        value, count = float(over.sum() / under.sum()), len(over)
        if count < 2:
            return RatioTest(Estimate(value, np.nan, np.nan), np.nan, np.nan)
        difference = over - null * under
        t = difference.mean() / np.sqrt(difference.var(ddof=1) / count)
        above, below = (float(stdtr(count - 1, side)) for side in (-t, t))
    (yy, xy), (_, xx) = np.cov(over, under) * stdtrit(count - 1, 0.975) ** 2 / count
    x, y = under.mean(), over.mean()
    square, half, rest = x * x - xx, x * y - xy, y * y - yy
    if square <= 0:
        return RatioTest(Estimate(value, np.nan, np.nan), above, below)
    reach = np.sqrt(max(0.0, half * half - square * rest))
    ratio = Estimate(value, float((half - reach) / square), float((half + reach) / square))
    return RatioTest(guarded(ratio, clusters), above, below)
