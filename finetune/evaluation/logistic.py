"""Logistic regression of an event on a few columns, with a ridge that keeps it finite where columns separate it."""

import numpy as np
from numpy.typing import NDArray

from interp.statistics import FloatArray

RIDGE = 1.0
"""Weight of the squared coefficients of standardized columns, as that of a normal prior of variance 1."""


def fit_logistic(columns: FloatArray, event: NDArray[np.bool_], ridge: float = RIDGE) -> FloatArray:
    """The coefficients [1 + k], the intercept first, of log odds = b0 + columns [n, k] b, for `event` [n].

    They minimize the sum of the negative log likelihoods plus ridge / 2 times the squared coefficients without the
    intercept. The columns should be standardized. `event` must occur and not occur.
    """
    from scipy.optimize import minimize

    design = np.column_stack([np.ones(len(columns)), columns])
    target, penalty = event.astype(float), np.r_[0.0, np.full(columns.shape[1], ridge)]

    def loss(b: FloatArray) -> tuple[float, FloatArray]:
        odds = design @ b
        value = np.logaddexp(0, odds).sum() - target @ odds + (penalty * b**2).sum() / 2
        return float(value), design.T @ (1 / (1 + np.exp(-odds)) - target) + penalty * b

    return minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"gtol": 1e-8}).x
