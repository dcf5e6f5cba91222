"""p values of single tests, and their adjustment for many tests."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.statistics.bootstrap import cluster_of
from interp.statistics.estimate import FloatArray


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """p values [n] adjusted for the false discovery rate (Benjamini and Hochberg 1995)."""
    from statsmodels.stats.multitest import multipletests

    p_values = np.asarray(p_values, float)
    return multipletests(p_values, method="fdr_bh")[1] if len(p_values) else p_values


def mcnemar_p(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test of two paired yes/no outcomes [n]."""
    from scipy.stats import binomtest

    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def sign_flip_p(difference: FloatArray, clusters: Sequence[object], seed: int, draws: int = 5000) -> float:
    """Two-sided permutation test that paired differences [n] have mean zero; it flips the signs of whole clusters."""
    member = cluster_of(clusters)
    sums = np.bincount(member, weights=difference)
    rng = np.random.default_rng(seed)
    null = np.abs(rng.choice((-1.0, 1.0), size=(draws, len(sums))) @ sums)
    return float((1 + (null >= abs(sums.sum()) - 1e-12).sum()) / (draws + 1))


def two_proportions_p(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    """Two-sided z test of two proportions with pooled variance, as if the two samples [n] and [m] were independent.

    The published work uses it on the same questions; the paired test is the one to trust. NaN if a sample is empty, or
    if both proportions are 0 or both are 1.
    """
    from statsmodels.stats.proportion import proportions_ztest

    counts, sizes = [int(before.sum()), int(after.sum())], [len(before), len(after)]
    if min(sizes) == 0 or sum(counts) in (0, sum(sizes)):
        return np.nan
    return float(proportions_ztest(counts, sizes)[1])


def same_marginals_p(table: NDArray[np.integer]) -> float:
    """p that the shares of the categories are the same before and after: `table` holds counts before (rows) and after.

    Stuart-Maxwell test of marginal homogeneity (Maxwell 1970); categories that never occur are left out. 1 if nothing
    changed. NaN if the changes fall into groups of categories that never mix, for which the test is undefined.
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
