"""How alike the rows of one cluster are."""

from collections.abc import Sequence

import numpy as np

from interp.statistics.bootstrap import cluster_of
from interp.statistics.estimate import FloatArray


def intraclass_correlation(values: FloatArray, clusters: Sequence[object]) -> float:
    """Correlation of two rows of one cluster, from the analysis of variance; between 0 and 1.

    Donner, A review of inference procedures for the intraclass correlation coefficient (1986). 0 if every cluster has
    one row, if there is one cluster, or if the values are all equal.
    """
    member, values = cluster_of(clusters), np.asarray(values, float)
    size = np.bincount(member) if len(member) else np.zeros(0)
    n, k = len(values), len(size)
    if k < 2 or n <= k:
        return 0.0
    mean = np.bincount(member, values) / size
    between = (size * (mean - values.mean()) ** 2).sum() / (k - 1)
    within = ((values - mean[member]) ** 2).sum() / (n - k)
    typical = (n - (size**2).sum() / n) / (k - 1)
    total = between + (typical - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total > 0 else 0.0
