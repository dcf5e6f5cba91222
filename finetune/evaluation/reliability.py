"""How right answers are for how sure they are: confidence, its bins and the reliability curve."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, correct_by_margin, gradable
from interp.schemas.evaluation import ReliabilityBin
from interp.schemas.record import Interval
from interp.statistics import FloatArray, share_interval
from interp.storage.json_files import significant

ECE_BINS = 15
"""Number of equal bins of the confidence in [.5, 1]; Guo et al. (arXiv 1706.04599) use 15 bins of [0, 1]."""


def confidence(margin: FloatArray) -> FloatArray:
    """Probability of the given answer among yes and no: sigmoid |m|."""
    return 1 / (1 + np.exp(-np.abs(margin)))


def confidence_bin(margin: FloatArray) -> NDArray[np.intp]:
    """Index of the bin that the confidence falls into, among ECE_BINS equal bins of [.5, 1]."""
    return np.minimum(((confidence(margin) - 0.5) * 2 * ECE_BINS).astype(int), ECE_BINS - 1)


def reliability(prompts: pd.DataFrame, answers: Answers, arm: str, seed: int = 0) -> list[ReliabilityBin]:
    """The reliability curve of one arm on closed questions (Guo et al., arXiv 1706.04599), without empty bins.

    The intervals resample whole patients, whose wordings are right or wrong together. `seed` is that of the bootstrap.
    """
    rows = gradable(prompts)
    patients = prompts.loc[rows, "patient"].to_numpy(object)
    margin, correct = answers.margin[rows], correct_by_margin(prompts, answers)[rows]
    sure, place = confidence(margin), confidence_bin(margin)
    return [
        ReliabilityBin(
            arm=arm,
            low=significant(0.5 + i / (2 * ECE_BINS)),
            n=int(inside.sum()),
            confidence=significant(float(sure[inside].mean())),
            accuracy=significant(float(correct[inside].mean())),
            interval=Interval.of(share_interval(correct[inside], list(patients[inside]), seed)),
        )
        for i in range(ECE_BINS)
        if (inside := place == i).any()
    ]
