"""p values of single tests, and their adjustment for many tests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.statistics.bootstrap import cluster_of
from interp.statistics.estimate import FloatArray
from interp.statistics.sign_flips import drawn_flips


def benjamini_hochberg(p_values: FloatArray) -> FloatArray:
    """p values [n] adjusted for the false discovery rate (Benjamini and Hochberg 1995)."""
    # statsmodels' multipletests gives the same numbers, but importing it takes .4 s, with scipy.stats.
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    share = np.arange(1, len(p_values) + 1) / len(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum.accumulate((p_values[order] / share)[::-1])[::-1].clip(max=1)
    return adjusted


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


def same_marginals_p(
    before: NDArray[np.integer], after: NDArray[np.integer], clusters: Sequence[object], seed: int, draws: int = 5000
) -> float:
    """p that the shares of the categories are the same before and after, where rows of one cluster may depend.

    `before` and `after` [n] are the categories of the rows. The statistic is that of Stuart and Maxwell (Maxwell 1970),
    d' S^-1 d with the changes d of the counts and S the sum of their squares, over clusters in place of rows. It is
    compared with its values when the signs of whole clusters are flipped, which leaves S as it is. 1 if nothing
    changed.
    """
    member = cluster_of(clusters)
    kinds = np.unique(np.concatenate([before, after]))
    moves = np.zeros((int(member.max()) + 1 if len(member) else 0, len(kinds)))
    np.add.at(moves, member, (after[:, None] == kinds).astype(float) - (before[:, None] == kinds))
    if not moves.any():
        return 1.0
    # Of full rank or not: the changes of all categories sum to zero.
    inverse = np.linalg.pinv(moves.T @ moves, rcond=1e-9, hermitian=True)
    signs = 1 - 2 * drawn_flips(len(moves), seed, draws)

    def statistic(changes: FloatArray) -> FloatArray:
        return ((changes @ inverse) * changes).sum(-1)

    null = statistic(signs @ moves)
    return float((1 + (null >= statistic(moves.sum(0)) - 1e-9).sum()) / (draws + 1))
