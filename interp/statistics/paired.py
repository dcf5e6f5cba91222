"""Statistics of two samples of the same patients: intervals and p values of their difference."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from interp.statistics.bootstrap import at_the_ends, clusters_drawn, percentiles
from interp.statistics.estimate import MIN_PATIENTS, Estimate, FloatArray
from interp.statistics.sign_flips import sign_flip_test

Statistic = Callable[[FloatArray], FloatArray]
"""Column totals [..., c] over the units of a sample -> a number for each [...]; NaN where it is undefined."""


class Paired(NamedTuple):
    """A statistic of two samples of the same patients."""

    before: Estimate
    """The statistic of the first sample."""
    after: Estimate
    """The statistic of the second sample."""
    difference: Estimate
    """after - before."""
    p: float
    """Two-sided p value of the difference."""


def mean_of_totals(totals: FloatArray) -> FloatArray:
    """The statistic top / bottom of the columns (top, bottom); with the columns (value, 1) it is the mean."""
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
    share: bool = False,
) -> Paired:
    """A statistic of totals in two samples, with cluster-bootstrap intervals and a paired permutation test.

    `before` [k, c] and `after` [l, c] hold the columns of each unit, `clusters` the patient of each unit. The interval
    of each sample comes from a bootstrap of whole patients. Interval and p of the difference come from one sign-flip
    test over patients (`interp.statistics.sign_flips`), so they cannot disagree; other statistics than means enter it
    by the influence of each patient, as leaving it out shows (jackknife; Efron, The Jackknife, the Bootstrap and Other
    Resampling Plans, 1982, section 6). Intervals are NaN for fewer than MIN_PATIENTS patients, that of the difference
    for fewer than MIN_PAIRED_PATIENTS. The interval of a `share` of units that is 0 or 1 is that of
    `interp.statistics.bootstrap.at_the_ends`.
    """
    sums = _cluster_sums([before, after], clusters)
    units = [table[:, 0] for table in _cluster_sums([np.ones((len(each), 1)) for each in (before, after)], clusters)]
    value = [float(statistic(table.sum(0))) for table in sums]
    drawn = _drawn(len(sums[0]), draws, seed)
    samples = [statistic(drawn @ table) for table in sums]
    estimates = [percentiles(v, s, len(sums[0])) for v, s in zip(value, samples, strict=True)]
    if share:
        estimates = [at_the_ends(each, sizes) for each, sizes in zip(estimates, units, strict=True)]
    weight = [count / max(1.0, count.sum()) for count in units]
    moved = [_influence(statistic, table, share) for table, share in zip(sums, weight, strict=True)]
    difference, p = sign_flip_test(
        value[1] - value[0],
        moved[1] - moved[0],
        (weight[0] + weight[1]) / 2,
        _exchanged(len(sums[0]), shuffles, seed),
    )
    return Paired(estimates[0], estimates[1], difference, p)


def pooled_over_seeds(
    statistic: Statistic,
    before: FloatArray,
    after: Sequence[FloatArray],
    clusters: Sequence[Sequence[object]],
    seed: int,
    draws: int = 2000,
    share: bool = False,
) -> Paired:
    """Compare a statistic of one sample with its mean over the samples of several training seeds.

    `after` holds at least two samples, one per seed; `clusters` the patient of each unit, those of `before` first.
    Patients and seeds are both random: SE² = bootstrap variance over patients of the mean over seeds + variance between
    seeds / number of seeds. Interval and p use Student's t with Welch-Satterthwaite degrees of freedom (patients - 1
    and seeds - 1). The variance between seeds contains part of that over patients, so the interval errs on the wide
    side. The intervals of a `share` are as in `paired_statistic`, and stay between 0 and 1.
    """
    sums = _cluster_sums([before, *after], clusters)
    count = len(sums[0])
    value = np.array([float(statistic(table.sum(0))) for table in sums])
    drawn = _drawn(count, draws, seed)
    samples = np.stack([statistic(drawn @ table) for table in sums])
    first = percentiles(value[0], samples[0], count)
    second, _ = over_patients_and_seeds(value[1:], samples[1:].mean(0), count)
    difference, p = over_patients_and_seeds(value[1:] - value[0], (samples[1:] - samples[0]).mean(0), count)
    if share:
        # Every seed had the same patients; with no event in any of them, they are no more than one sample.
        sizes = _cluster_sums([np.ones((len(each), 1)) for each in (before, *after)], clusters)
        first, second = at_the_ends(first, sizes[0][:, 0]), at_the_ends(second, sizes[1][:, 0])
        # Student's interval can leave the range of a share.
        second = Estimate(*np.clip(second, 0, 1).tolist())
    return Paired(first, second, difference, p)


def over_patients_and_seeds(values: FloatArray, over_patients: FloatArray, patients: int) -> tuple[Estimate, float]:
    """The mean of the `values` [s] of at least two seeds, with the interval and the p of `pooled_over_seeds`.

    `over_patients` [draws] are bootstrap samples of that mean. Interval and p are NaN for fewer than MIN_PATIENTS
    patients.
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
    """Column totals of each sample by cluster: [K, c] each, for the K clusters of all samples together."""
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
    return clusters_drawn(range(count), draws, seed)[1]


@lru_cache(maxsize=4)
def _exchanged(count: int, shuffles: int, seed: int) -> FloatArray:
    """Whether the two samples of each of `count` clusters are exchanged, 1 or 0: [shuffles, count]."""
    return (np.random.default_rng(seed).random((shuffles, count)) < 0.5).astype(float)


def _influence(statistic: Statistic, sums: FloatArray, weight: FloatArray) -> FloatArray:
    """How much each cluster moves a statistic, from leaving it out: [k], with a sum of zero; exact for means.

    `sums` [k, c] are the column totals of the clusters, and `weight` [k] their shares of the units.
    """
    total = sums.sum(0)
    left_out = statistic(total - sums)
    moved = np.where(weight == 1, 0.0, (1 - weight) * (float(statistic(total)) - left_out))
    return moved - moved.mean()
