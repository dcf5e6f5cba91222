"""Ranks of values among others."""

import math

import numpy as np
import pandas as pd

from interp.statistics.estimate import FloatArray


def midranks(values: FloatArray) -> FloatArray:
    """Ranks from 1 along the first axis of `values` [n, ...], where ties share their mean rank: [n, ...].

    They are those of `scipy.stats.rankdata`, whose module takes .2 s to import: all NaN where one of the n values is.
    """
    values = np.asarray(values)
    columns = pd.DataFrame(values.reshape(len(values), math.prod(values.shape[1:])))
    ranks = np.where(columns.isna().any(), np.nan, columns.rank())
    return ranks.reshape(values.shape)
