"""Intervals and tests, thin over numpy, scipy and statsmodels; every interval resamples patients, not rows."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
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
    member = cluster_of(clusters)
    return member, _times_drawn(int(member.max()) + 1 if len(member) else 0, draws, seed)


def cluster_of(clusters: Sequence[object]) -> NDArray[np.intp]:
    """Number of each row's cluster [n], in the order of their names as text."""
    import pandas as pd

    return pd.factorize(np.array([str(name) for name in clusters], object), sort=True)[0]


@lru_cache(maxsize=8)
def _times_drawn(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws) if count else np.zeros((draws, 0), np.int64)
    drawn.flags.writeable = False
    return drawn


def ratio_interval(
    top: FloatArray, bottom: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000
) -> Estimate:
    """sum(top) / sum(bottom) with a cluster-bootstrap interval; a mean where `bottom` is all ones.

    The interval is NaN for fewer than MIN_PATIENTS clusters.
    """
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    if bottom.sum() == 0:
        return Estimate(np.nan, np.nan, np.nan)
    member, drawn = clusters_drawn(clusters, draws, seed)
    total = drawn @ np.bincount(member, bottom)
    samples = (drawn @ np.bincount(member, top))[total != 0] / total[total != 0]
    low, high = np.percentile(samples, [2.5, 97.5])
    return guarded(Estimate(float(top.sum() / bottom.sum()), float(low), float(high)), clusters)


def mean_interval(values: FloatArray, clusters: Sequence[object], seed: int, draws: int = 2000) -> Estimate:
    """The mean of `values` with a cluster-bootstrap interval."""
    return ratio_interval(values, np.ones(len(values)), clusters, seed, draws)


def auc(scores: FloatArray, positive: NDArray[np.bool_]) -> FloatArray:
    """Area under the ROC curve of each column of `scores` [n, k] for the labels `positive` [n]; ties count half.

    The Mann-Whitney statistic over the number of pairs; NaN where a class is empty.
    """
    from scipy.stats import rankdata

    scores = np.asarray(scores, float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return np.full(scores.shape[1], np.nan)
    ranks = rankdata(scores, axis=0)
    u = ranks[positive].sum(0) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * (n - n_positive))


def weighted_aucs(scores: FloatArray, positive: NDArray[np.bool_], weights: NDArray[np.integer]) -> FloatArray:
    """`auc` of each column of `scores` [n, k] with every row taken as often as each draw says: [draws, k].

    `weights` [draws, n] are numbers of times. NaN where a class is empty. A column is sorted once for all draws.
    """
    scores = np.asarray(scores, float).reshape(len(positive), -1)
    taken, others = weights[:, positive], weights[:, ~positive]
    pairs = taken.sum(1) * others.sum(1)
    found = np.empty((len(weights), scores.shape[1]))
    for k, column in enumerate(scores.T):
        order = np.argsort(column[~positive])
        ascending = column[~positive][order]
        # [draws, 1 + negatives]: how often the lowest of the negatives were taken together.
        lowest = np.pad(others[:, order].cumsum(1), ((0, 0), (1, 0)))
        below, up_to = (np.searchsorted(ascending, column[positive], side) for side in ("left", "right"))
        beaten = (taken * (lowest[:, below] + lowest[:, up_to])).sum(1) / 2
        with np.errstate(invalid="ignore"):
            found[:, k] = beaten / pairs
    return found


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
    member = cluster_of(clusters)
    sums = np.bincount(member, weights=difference)
    rng = np.random.default_rng(seed)
    null = np.abs(rng.choice((-1.0, 1.0), size=(draws, len(sums))) @ sums)
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


Statistic = Callable[[FloatArray], FloatArray]
"""Column totals [..., c] over the units of a sample -> a number for each [...]; NaN where it is undefined."""


class Paired(NamedTuple):
    """A statistic of two samples of the same patients."""

    before: Estimate
    """Of the first."""
    after: Estimate
    """Of the second."""
    difference: Estimate
    """Second - first."""
    p: float
    """Two-sided p value of the difference."""


def mean_of_totals(totals: FloatArray) -> FloatArray:
    """Statistic of columns (value, 1): the mean; of (top, bottom): their ratio."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[..., 0] / totals[..., 1]


def paired_statistic(
    statistic: Statistic,
    before: FloatArray,
    after: FloatArray,
    clusters: tuple[Sequence[object], Sequence[object]],
    seed: int,
    draws: int = 2000,
    shuffles: int = 5000,
) -> Paired:
    """Any statistic of totals in two samples, with cluster-bootstrap intervals and a paired permutation test.

    `before` [k, c] and `after` [l, c] hold the columns of each unit, `clusters` whom each comes from. The bootstrap
    draws whole patients, the same for both. The permutation exchanges the two samples of whole patients, which for a
    mean of paired values is the sign-flip test. Intervals are NaN for fewer than MIN_PATIENTS patients.
    """
    sums = _cluster_sums([before, after], clusters)
    value = [float(statistic(table.sum(0))) for table in sums]
    drawn = _drawn(len(sums[0]), draws, seed)
    samples = [statistic(drawn @ table) for table in sums]
    estimates = [percentiles(v, s, len(sums[0])) for v, s in zip(value, samples, strict=True)]
    change = value[1] - value[0]
    difference = percentiles(change, samples[1] - samples[0], len(sums[0]))
    return Paired(estimates[0], estimates[1], difference, _exchange_p(statistic, sums, change, seed, shuffles))


def pooled_over_seeds(
    statistic: Statistic,
    before: FloatArray,
    after: Sequence[FloatArray],
    clusters: Sequence[Sequence[object]],
    seed: int,
    draws: int = 2000,
) -> Paired:
    """A statistic of a first sample against the mean of the same statistic over several training seeds.

    `after` are the samples of the seeds, at least two; `clusters` whom each unit comes from, of `before` first. Both
    the patients and the seeds are random: SE² = bootstrap variance over patients of the mean over seeds + variance
    between seeds / number of seeds. Interval and p are Student's t, its degrees of freedom by Welch-Satterthwaite
    (patients - 1 and seeds - 1). The variance between seeds holds some of that over patients too, so the interval errs
    on the wide side.
    """
    sums = _cluster_sums([before, *after], clusters)
    count = len(sums[0])
    value = np.array([float(statistic(table.sum(0))) for table in sums])
    drawn = _drawn(count, draws, seed)
    samples = np.stack([statistic(drawn @ table) for table in sums])
    first = percentiles(value[0], samples[0], count)
    second, _ = over_patients_and_seeds(value[1:], samples[1:].mean(0), count)
    difference, p = over_patients_and_seeds(value[1:] - value[0], (samples[1:] - samples[0]).mean(0), count)
    return Paired(first, second, difference, p)


def over_patients_and_seeds(values: FloatArray, over_patients: FloatArray, patients: int) -> tuple[Estimate, float]:
    """The mean of the values [s] of at least two seeds, with interval and p as `pooled_over_seeds` makes them.

    `over_patients` [draws] are bootstrap samples of that mean. Both are NaN for fewer than MIN_PATIENTS patients.
    """
    from scipy.stats import t as student

    defined = over_patients[np.isfinite(over_patients)]
    parts = np.array([defined.var(ddof=1) if len(defined) > 1 else np.nan, values.var(ddof=1) / len(values)])
    freedom = np.array([patients - 1, len(values) - 1])
    mean, spread = float(values.mean()), float(np.sqrt(parts.sum()))
    if patients < MIN_PATIENTS or not np.isfinite(spread):
        return Estimate(mean, np.nan, np.nan), np.nan
    if spread == 0:
        return Estimate(mean, mean, mean), 0.0 if mean else 1.0
    df = parts.sum() ** 2 / (parts**2 / freedom).sum()
    half = spread * float(student.ppf(0.975, df))
    return Estimate(mean, mean - half, mean + half), float(2 * student.sf(abs(mean) / spread, df))


def _cluster_sums(columns: Sequence[FloatArray], clusters: Sequence[Sequence[object]]) -> list[FloatArray]:
    """Column totals of each sample by cluster, [K, c] each; the K clusters are those of all samples."""
    labels = [np.asarray(names, dtype=str) for names in clusters]
    _, member = np.unique(np.concatenate(labels), return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    parts = np.split(member, np.cumsum([len(names) for names in labels])[:-1])
    sums: list[FloatArray] = []
    for values, part in zip(columns, parts, strict=True):
        table = np.zeros((count, values.shape[1]))
        np.add.at(table, part, values)
        sums.append(table)
    return sums


@lru_cache(maxsize=4)
def _drawn(count: int, draws: int, seed: int) -> FloatArray:
    """How often each of `count` clusters is drawn in every bootstrap sample: [draws, count]."""
    return clusters_drawn(range(count), draws, seed)[1].astype(float)


@lru_cache(maxsize=4)
def _exchanged(count: int, shuffles: int, seed: int) -> NDArray[np.bool_]:
    """Whether the two samples of each of `count` clusters change places: [shuffles, count]."""
    return np.random.default_rng(seed).random((shuffles, count)) < 0.5


def percentiles(value: float, samples: FloatArray, clusters: int) -> Estimate:
    """A value with the 95% interval of its bootstrap samples [draws]; none for fewer than MIN_PATIENTS clusters."""
    defined = samples[np.isfinite(samples)]
    if np.isnan(value) or not len(defined) or clusters < MIN_PATIENTS:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *map(float, np.percentile(defined, [2.5, 97.5])))


def _exchange_p(statistic: Statistic, sums: Sequence[FloatArray], change: float, seed: int, shuffles: int) -> float:
    if np.isnan(change):
        return np.nan
    before, after = sums
    beyond, defined = 0, 0
    for block in np.array_split(_exchanged(len(before), shuffles, seed), max(1, shuffles // 500)):
        moved = block.astype(float)
        first = before.sum(0) + moved @ (after - before)
        second = before.sum(0) + after.sum(0) - first
        null = statistic(second) - statistic(first)
        beyond += int((np.abs(null) >= abs(change) - 1e-12).sum())
        defined += int(np.isfinite(null).sum())
    return (1 + beyond) / (defined + 1)


def two_proportions_p(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Two-sided two-proportion z test, pooled variance, as if the two samples had nothing to do with each other.

    What the published work used on the same questions; the paired test is the one to trust. NaN where a sample is empty
    or both proportions are the same 0 or 1.
    """
    from statsmodels.stats.proportion import proportions_ztest

    counts, sizes = [int(before.sum()), int(after.sum())], [len(before), len(after)]
    if min(sizes) == 0 or sum(counts) in (0, sum(sizes)):
        return np.nan
    return float(proportions_ztest(counts, sizes)[1])


def cohens_h(before: float, after: float) -> float:
    """Effect size of two proportions, 2 asin sqrt(after) - 2 asin sqrt(before); .2 small, .5 medium, .8 large.

    Cohen, Statistical Power Analysis (1988), 6.2.
    """
    return float(2 * (np.arcsin(np.sqrt(np.clip(after, 0, 1))) - np.arcsin(np.sqrt(np.clip(before, 0, 1)))))


def needed_units(difference: Estimate, units: int, bound: float, power: float = 0.8) -> int | None:
    """Units (questions, say) with which the interval would stay clear of `bound`, if the difference is what it seems.

    The standard error is read from the interval, so that it holds for clustered data, and shrinks with the root of the
    number of units: n = units ((z_.975 + z_power) SE / |difference - bound|)². None where the estimate lies at the
    bound, or there is no interval.
    """
    from scipy.stats import norm

    gap = abs(difference.value - bound)
    spread = (difference.high - difference.low) / (2 * norm.ppf(0.975))
    if not np.isfinite(spread) or gap == 0:
        return None
    return int(np.ceil(units * ((norm.ppf(0.975) + norm.ppf(power)) * spread / gap) ** 2))


def same_marginals_p(table: NDArray[np.integer]) -> float:
    """Whether the shares of the categories changed in a square table of counts before (rows) and after (columns).

    Stuart-Maxwell test of marginal homogeneity (Maxwell 1970); categories that never occur are left out. 1 where
    nothing moved, NaN where the moves fall into groups of categories that never mix, for which there is no such test.
    """
    from statsmodels.stats.contingency_tables import SquareTable
    from statsmodels.tools.sm_exceptions import SingularMatrixWarning

    counts = np.asarray(table, float)
    kept = (counts.sum(0) + counts.sum(1)) > 0
    counts = counts[np.ix_(kept, kept)]
    if len(counts) < 2 or counts.sum() == np.trace(counts):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingularMatrixWarning)
        return float(SquareTable(counts, shift_zeros=False).homogeneity(method="stuart_maxwell").pvalue)
