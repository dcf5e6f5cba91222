"""Statistics of two samples of the same patients: intervals and p values of their difference."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.statistics.bootstrap import clusters_drawn, percentiles
from interp.statistics.estimate import MIN_PATIENTS, Estimate, FloatArray

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
) -> Paired:
    """A statistic of totals in two samples, with cluster-bootstrap intervals and a paired permutation test.

    `before` [k, c] and `after` [l, c] hold the columns of each unit, `clusters` the patient of each unit. The bootstrap
    draws whole patients, the same ones for both samples. The permutation exchanges the two samples of whole patients;
    for a mean of paired values, that is the sign-flip test. Intervals are NaN for fewer than MIN_PATIENTS patients.
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
    """Compare a statistic of one sample with its mean over the samples of several training seeds.

    `after` holds at least two samples, one per seed; `clusters` the patient of each unit, those of `before` first.
    Patients and seeds are both random: SE² = bootstrap variance over patients of the mean over seeds + variance between
    seeds / number of seeds. Interval and p use Student's t with Welch-Satterthwaite degrees of freedom (patients - 1
    and seeds - 1). The variance between seeds contains part of that over patients, so the interval errs on the wide
    side.
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
    return clusters_drawn(range(count), draws, seed)[1].astype(float)


@lru_cache(maxsize=4)
def _exchanged(count: int, shuffles: int, seed: int) -> NDArray[np.bool_]:
    """Whether the two samples of each of `count` clusters are exchanged: [shuffles, count]."""
    return np.random.default_rng(seed).random((shuffles, count)) < 0.5


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
