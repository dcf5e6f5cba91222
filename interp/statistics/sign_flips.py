"""The sign-flip test over patients, and the interval that it gives: values that the test does not reject.

Test and interval come from one set of draws, so an interval excludes a value exactly where its p is at most .05. For a
mean of paired values this is the permutation test that exchanges the two samples of whole patients, which is exact if
the patients' differences are symmetric about their mean. The interval is Hartigan's (Using subsample values as typical
values, JASA 1969): the mean of the patients whose sign is flipped and that of the others lie on either side of every
value that this draw does not reject.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from interp.statistics.bootstrap import cluster_of
from interp.statistics.estimate import MIN_PAIRED_PATIENTS, Estimate, FloatArray

ALPHA = 0.05
"""Level of the test for which the interval is given."""
TIE = 1e-12
"""Distance within which two values are equal but for rounding."""


def sign_flip_test(
    value: float, influence: FloatArray, weight: FloatArray, flipped: FloatArray
) -> tuple[Estimate, float]:
    """An estimate with its 95% interval, and the two-sided p that the true value is zero.

    `influence` [k] is how much each of k patients moves the `value`, which sums to zero; `weight` [k] is the patient's
    share of the sample. `flipped` [draws, k] is 1 where the sign of a patient is flipped and else 0. The interval is
    NaN for fewer than MIN_PAIRED_PATIENTS patients, and where too few of them have any weight.
    """
    if np.isnan(value) or not np.isfinite(influence).all():
        return Estimate(value, np.nan, np.nan), np.nan
    columns = np.stack([influence, weight], axis=1)
    ends = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for side in (flipped, 1 - flipped):
            moved, share = (side @ columns).T
            ends.append(np.where(share == 0, np.nan, value + moved / share))
    # A draw that flips all patients or none rejects no value.
    trivial = np.isnan(ends[0]) | np.isnan(ends[1])
    low = np.where(trivial, -np.inf, np.minimum(np.minimum(*ends), value))
    high = np.where(trivial, np.inf, np.maximum(np.maximum(*ends), value))
    low[np.abs(low) < TIE], high[np.abs(high) < TIE] = 0, 0
    p = (1 + int(((low <= 0) & (high >= 0)).sum())) / (len(flipped) + 1)
    kept = int(ALPHA * (len(flipped) + 1))
    interval = float(np.partition(low, kept - 1)[kept - 1]), float(np.partition(high, -kept)[-kept])
    if len(influence) < MIN_PAIRED_PATIENTS or not np.isfinite(interval).all():
        interval = (np.nan, np.nan)
    return Estimate(value, *interval), p


def ratio_sign_flips(
    top: FloatArray, bottom: FloatArray, clusters: Sequence[object], seed: int, draws: int = 5000
) -> tuple[Estimate, float]:
    """sum(top) / sum(bottom) [n] with the interval and the p of `sign_flip_test`; a mean if `bottom` is all ones."""
    member = cluster_of(clusters)
    over, under = (np.bincount(member, np.asarray(values, float)) for values in (top, bottom))
    if under.sum() == 0:
        return Estimate(np.nan, np.nan, np.nan), np.nan
    value = float(over.sum() / under.sum())
    flipped = drawn_flips(len(under), seed, draws)
    return sign_flip_test(value, (over - value * under) / under.sum(), under / under.sum(), flipped)


@lru_cache(maxsize=2)
def drawn_flips(count: int, seed: int, draws: int) -> NDArray[np.float64]:
    """Whether the sign of each of `count` patients is flipped in every draw, 1 or 0: [draws, count], read-only."""
    flipped = (np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, count)) < 0).astype(float)
    flipped.flags.writeable = False
    return flipped
