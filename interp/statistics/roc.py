"""Area under the ROC curve."""

import numpy as np
from numpy.typing import NDArray

from interp.statistics.estimate import FloatArray
from interp.statistics.ranks import midranks


def auc(scores: FloatArray, positive: NDArray[np.bool_]) -> FloatArray:
    """Area under the ROC curve of each column of `scores` [n, k] for the labels `positive` [n]: [k].

    It is the Mann-Whitney statistic divided by the number of pairs, in which ties count half. NaN if a class is empty.
    """
    scores = np.asarray(scores, float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return np.full(scores.shape[1], np.nan)
    ranks = midranks(scores)
    u = ranks[positive].sum(0) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * (n - n_positive))


def weighted_aucs(scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    """`auc` of each column of `scores` [n, k] in bootstrap samples: [draws, k].

    `weights` [draws, n] say how often each row is drawn. NaN if a class is empty. A column is sorted only once.
    """
    scores = np.asarray(scores, float).reshape(len(positive), -1)
    taken = weights[:, positive].T.astype(float)
    # [negatives + 1, draws]: nobody draws the last row, which lies above all.
    others = np.pad(weights[:, ~positive].T.astype(np.int32), ((0, 1), (0, 0)))
    pairs = taken.sum(0) * others.sum(0)
    found = np.empty((len(weights), scores.shape[1]))
    for k, column in enumerate(scores.T):
        order = np.argsort(column[~positive])
        ascending = column[~positive][order]
        ends = [np.searchsorted(ascending, column[positive], side) for side in ("left", "right")]
        cuts, place = np.unique(np.concatenate([[0], *ends]), return_inverse=True)
        # How often the negatives from each cut to the next are drawn in total, and those below the cut.
        between = np.add.reduceat(others[np.append(order, len(order))], cuts)
        lowest = between.cumsum(0) - between
        below, up_to = place[1:].reshape(2, -1)
        beaten = (taken * (lowest[below] + lowest[up_to])).sum(0) / 2
        with np.errstate(invalid="ignore"):
            found[:, k] = beaten / pairs
    return found


def auc_p_value(
    values: FloatArray, n_positive: int, n_negative: int, design_effect: FloatArray | float = 1.0
) -> FloatArray:
    """Two-sided p of AUCs [k] against 0.5, by the normal approximation of Mann-Whitney.

    `design_effect` [k] is the factor by which clusters raise the variance. It ignores ties, which makes it
    conservative for features that are active on few rows.
    """
    from scipy.special import ndtr

    spread = np.sqrt(design_effect * (n_positive + n_negative + 1) / (12 * max(1, n_positive * n_negative)))
    return 2 * ndtr(-np.abs(np.asarray(values) - 0.5) / spread)
