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


def weighted_aucs(scores: FloatArray, positive: NDArray[np.bool_], weights: NDArray[np.integer]) -> FloatArray:
    """`auc` of each column of `scores` [n, k] in bootstrap samples: [draws, k].

    `weights` [draws, n] say how often each row is drawn. NaN if a class is empty. A column is sorted only once.
    """
    scores = np.asarray(scores, float).reshape(len(positive), -1)
    taken, others = weights[:, positive], weights[:, ~positive]
    pairs = taken.sum(1) * others.sum(1)
    found = np.empty((len(weights), scores.shape[1]))
    for k, column in enumerate(scores.T):
        order = np.argsort(column[~positive])
        ascending = column[~positive][order]
        # [draws, 1 + negatives]: how often the lowest 0, 1, ... negatives are drawn in total.
        lowest = np.pad(others[:, order].cumsum(1), ((0, 0), (1, 0)))
        below, up_to = (np.searchsorted(ascending, column[positive], side) for side in ("left", "right"))
        beaten = (taken * (lowest[:, below] + lowest[:, up_to])).sum(1) / 2
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
