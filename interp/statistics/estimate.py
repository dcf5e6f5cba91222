"""An estimate with its interval, and when there are too few patients for one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

MIN_PATIENTS = 5
"""Fewest patients for which an interval is given: a bootstrap over fewer is too narrow."""
MIN_PAIRED_PATIENTS = 6
"""Fewest patients for which a paired difference has an interval: of five, no change of signs has a p below .05."""


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    """The estimate from all the data."""
    low: float
    """Lower end of the interval; NaN where there is none."""
    high: float
    """Upper end of the interval; NaN where there is none."""


UNDEFINED = Estimate(np.nan, np.nan, np.nan)
"""The estimate of something that the data do not define."""
