"""Intervals and tests, thin over numpy, scipy and statsmodels; every interval resamples patients, not rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

MIN_PATIENTS = 5
"""Fewest patients that an interval is given for: a bootstrap over fewer is narrower than the truth."""
ROUNDING = 1e-4
"""Standard deviation up to which a series does not vary: packed elsewhere, a prompt differs in its last digits."""


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    """The estimate on all the data."""
    low: float
    """2.5th percentile of the bootstrap."""
    high: float
    """97.5th percentile of the bootstrap."""


def clusters_drawn(clusters: Sequence[object], draws: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Cluster bootstrap: each row's cluster [n], and how often each cluster is drawn with replacement [draws, k]."""
    _, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws) if count else np.zeros((draws, 0), np.int64)
    return member, drawn


def ratio_interval(
    top: FloatArray, bottom: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000
) -> Estimate:
    """sum(top) / sum(bottom) with a cluster-bootstrap interval; a mean where `bottom` is all ones."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    if bottom.sum() == 0:
        return Estimate(np.nan, np.nan, np.nan)
    member, drawn = clusters_drawn(clusters, draws, seed)
    total = drawn @ np.bincount(member, bottom)
    samples = (drawn @ np.bincount(member, top))[total != 0] / total[total != 0]
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high))


def mean_interval(values: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000) -> Estimate:
    """The mean of `values` with a cluster-bootstrap interval."""
    return ratio_interval(values, np.ones(len(values)), clusters, seed, draws)


def auc(scores: FloatArray, positive: NDArray[np.bool_]) -> FloatArray:
    """Area under the ROC curve of each column of `scores` [n, k] for the labels `positive` [n]; ties count half.

    The Mann-Whitney statistic over the number of pairs; NaN where a class is empty.
    """
    from scipy.stats import rankdata

    scores = np.asarray(scores, float).reshape(len(positive), -1)
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return np.full(scores.shape[1], np.nan)
    ranks = rankdata(scores, axis=0)
    u = ranks[positive].sum(0) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * (n - n_positive))


def auc_p_value(values: FloatArray, n_positive: int, n_negative: int) -> FloatArray:
    """Two-sided p of AUCs against 0.5 by the normal approximation of Mann-Whitney (ties ignored: conservative)."""
    from scipy.stats import norm

    spread = np.sqrt((n_positive + n_negative + 1) / (12 * max(1, n_positive * n_negative)))
    return 2 * norm.sf(np.abs(np.asarray(values) - 0.5) / spread)


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """Adjusted p values (false discovery rate, Benjamini and Hochberg 1995)."""
    from statsmodels.stats.multitest import multipletests

    p_values = np.asarray(p_values, float)
    return multipletests(p_values, method="fdr_bh")[1] if len(p_values) else p_values


def mcnemar_p(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test of two paired yes/no outcomes."""
    from scipy.stats import binomtest

    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def sign_flip_p(difference: FloatArray, clusters: Sequence[object], seed: int, draws: int = 5000) -> float:
    """Two-sided permutation test that paired differences [n] have mean zero, flipping signs of whole clusters."""
    _, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.bincount(member, weights=difference)
    rng = np.random.default_rng(seed)
    null = np.abs([rng.choice((-1.0, 1.0), size=len(sums)) @ sums for _ in range(draws)])
    return float((1 + (null >= abs(sums.sum()) - 1e-12).sum()) / (draws + 1))


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's r of two series [n]; NaN where one of them varies by no more than ROUNDING."""
    if min(a.std(), b.std()) <= ROUNDING:
        return float("nan")
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))


def resampled(
    statistic: Callable[[NDArray[np.intp]], float], clusters: Sequence[object], seed: int, draws: int = 1000
) -> Estimate:
    """A statistic of rows with its 95% cluster-bootstrap interval; draws for which it is undefined do not count.

    `statistic` takes row positions, repeated as drawn. The interval is NaN for fewer than MIN_PATIENTS clusters.
    """
    member, drawn = clusters_drawn(clusters, draws, seed)
    rows = np.arange(len(member))
    value = statistic(rows)
    if np.isnan(value):
        return Estimate(np.nan, np.nan, np.nan)
    samples = np.array([statistic(np.repeat(rows, times[member])) for times in drawn])
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return guarded(Estimate(value, float(low), float(high)), clusters)


def guarded(estimate: Estimate, clusters: Sequence[object]) -> Estimate:
    """The estimate without its interval where it comes from fewer than MIN_PATIENTS clusters."""
    enough = len(set(clusters)) >= MIN_PATIENTS
    return estimate if enough else Estimate(estimate.value, np.nan, np.nan)
