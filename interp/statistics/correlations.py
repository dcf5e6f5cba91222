"""Correlations of two series."""

import numpy as np
from numpy.typing import NDArray

from interp.statistics.estimate import FloatArray
from interp.statistics.ranks import midranks

ROUNDING = 1e-4
"""Standard deviation below which a series counts as constant: the last digits depend on what shares a batch."""


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's r of two series [n]; NaN if the standard deviation of one of them is at most ROUNDING."""
    if min(a.std(), b.std()) <= ROUNDING:
        return float("nan")
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))


def spearman(a: FloatArray, b: FloatArray) -> FloatArray:
    """Spearman's rank correlation over the last axis: [n] and [n] -> a number, [..., n] and [n] -> [...].

    Ties share their mean rank. NaN where a series is constant.
    """
    x, y = _centred_ranks(a), _centred_ranks(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def _centred_ranks(values: FloatArray) -> FloatArray:
    ranks = np.moveaxis(midranks(np.moveaxis(values, -1, 0)), 0, -1)
    return ranks - ranks.mean(-1, keepdims=True)
