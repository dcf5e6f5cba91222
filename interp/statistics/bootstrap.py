"""Cluster bootstrap: 95% intervals that resample whole patients, not rows."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from interp.statistics.estimate import MIN_PATIENTS, UNDEFINED, Estimate, FloatArray

INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap samples at the ends of a 95% interval."""


def clusters_drawn(clusters: Sequence[object], draws: int, seed: int) -> tuple[NDArray[np.intp], FloatArray]:
    """The number of each row's cluster [n], and how often each cluster is drawn with replacement [draws, k].

    The latter are whole numbers, of which products with float64 would make float64 every time.
    """
    member = cluster_of(clusters)
    return member, _times_drawn(int(member.max()) + 1 if len(member) else 0, draws, seed)


def cluster_of(clusters: Sequence[object]) -> NDArray[np.intp]:
    """The number of each row's cluster [n]; clusters are numbered in the order of their names as text."""
    import pandas as pd

    return pd.factorize(np.array([str(name) for name in clusters], object), sort=True)[0]


@lru_cache(maxsize=8)
def _times_drawn(count: int, draws: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    drawn = np.zeros((draws, 0))
    if count:
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    drawn.flags.writeable = False
    return drawn


def ratio_interval(
    top: FloatArray, bottom: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000
) -> Estimate:
    """sum(top) / sum(bottom) with a cluster-bootstrap interval: a mean if `bottom` is all ones.

    The interval is NaN for fewer than MIN_PATIENTS clusters with anything in either sum.
    """
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    if bottom.sum() == 0:
        return UNDEFINED
    member, drawn = clusters_drawn(clusters, draws, seed)
    total = drawn @ np.bincount(member, bottom)
    samples = (drawn @ np.bincount(member, top))[total != 0] / total[total != 0]
    low, high = np.percentile(samples, INTERVAL)
    counted = np.unique(member[(top != 0) | (bottom != 0)]).tolist()
    return guarded(Estimate(float(top.sum() / bottom.sum()), float(low), float(high)), counted)


def mean_interval(values: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000) -> Estimate:
    """The mean of `values` [n] with a cluster-bootstrap interval."""
    return ratio_interval(values, np.ones(len(values)), clusters, seed, draws)


def share_interval(
    events: NDArray[np.floating | np.bool_],
    clusters: Sequence[object],
    seed: int,
    among: FloatArray | None = None,
    draws: int = 2000,
) -> Estimate:
    """The share of rows with an event: `events` [n] are 0 or 1, `among` [n] says which rows count, by default all.

    The interval is that of `ratio_interval`, or that of `at_the_ends` where no or every row has the event.
    """
    among = np.ones(len(events)) if among is None else np.asarray(among, float)
    found = ratio_interval(np.asarray(events, float) * among, among, clusters, seed, draws)
    return at_the_ends(found, np.bincount(cluster_of(clusters), among).astype(float))


def at_the_ends(share: Estimate, sizes: FloatArray) -> Estimate:
    """A share whose interval is exact if it is 0 or 1, where all bootstrap samples are the same; otherwise as it is.

    If none of n independent trials has an event, the 95% interval of Clopper and Pearson (Biometrika 1934) ends at
    1 - .025^(1/n). The rows of a cluster may depend, so n is a number of clusters: the effective one, which is smaller
    than theirs if their `sizes` [k] differ, (sum of sizes)^2 / sum of sizes^2 (Kish, Survey Sampling, 1965; so do Korn
    and Graubard, Survey Methodology 1998, with few events).
    """
    sizes = np.asarray(sizes, float)
    if share.value not in (0.0, 1.0) or np.isnan(share.low):
        return share
    reach = float(0.025 ** (np.square(sizes).sum() / sizes.sum() ** 2))
    return Estimate(0.0, 0.0, 1 - reach) if share.value == 0 else Estimate(1.0, reach, 1.0)


def resampled(
    statistic: Callable[[NDArray[np.intp]], float], clusters: Sequence[object], seed: int, draws: int = 1000
) -> Estimate:
    """A statistic of rows with its cluster-bootstrap interval; draws for which it is undefined are left out.

    `statistic` takes row positions, repeated as drawn. The interval is NaN for fewer than MIN_PATIENTS clusters.
    """
    member, drawn = clusters_drawn(clusters, draws, seed)
    rows = np.arange(len(member))
    value = statistic(rows)
    if np.isnan(value):
        return UNDEFINED
    samples = np.array([statistic(np.repeat(rows, times[member])) for times in drawn.astype(np.int64)])
    low, high = np.nanpercentile(samples, INTERVAL)
    return guarded(Estimate(value, float(low), float(high)), clusters)


def guarded(estimate: Estimate, clusters: Sequence[object]) -> Estimate:
    """The estimate, without its interval if it comes from fewer than MIN_PATIENTS clusters."""
    enough = len(set(clusters)) >= MIN_PATIENTS
    return estimate if enough else Estimate(estimate.value, np.nan, np.nan)


def percentiles(value: float, samples: FloatArray, clusters: int) -> Estimate:
    """A value with the 95% interval of its bootstrap samples [draws]; NaN for fewer than MIN_PATIENTS clusters."""
    defined = samples[np.isfinite(samples)]
    if np.isnan(value) or not len(defined) or clusters < MIN_PATIENTS:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *map(float, np.percentile(defined, INTERVAL)))
