"""The question-level flip rate by the number of paraphrases, with which it grows."""

import numpy as np
import pandas as pd

from finetune.evaluation.answers import flipped
from interp.schemas.evaluation import FlipsByCount
from interp.schemas.record import interval_of
from interp.statistics import FloatArray, share_interval


def flips_by_count(pairs: pd.DataFrame, margin: FloatArray, arm: str, seed: int) -> list[FlipsByCount]:
    """The flip rate of questions with k paraphrases, for every k that occurs; `pairs` are those of closed questions.

    Beside it stands the flip rate that questions with k or more would have with k of theirs, drawn at random. Unlike
    the first, it compares the same kind of questions as k grows.
    """
    if not len(pairs):
        return []
    found = pairs.assign(flipped=flipped(pairs, margin)).groupby("question", sort=True)
    counts = found.agg(patient=("patient", "first"), count=("flipped", "size"), flips=("flipped", "sum"))
    rows = []
    for k in sorted(counts["count"].unique().tolist()):
        exact, enough = counts[counts["count"] == k], counts[counts["count"] >= k]
        chance = any_flip_chance(enough["count"].to_numpy(), enough["flips"].to_numpy(), k)
        rows.append(
            FlipsByCount(
                arm=arm,
                paraphrases=k,
                questions=len(exact),
                flip_rate=interval_of(share_interval((exact["flips"] > 0).to_numpy(), exact["patient"].tolist(), seed)),
                at_least=len(enough),
                drawn_flip_rate=interval_of(share_interval(chance, enough["patient"].tolist(), seed)),
            )
        )
    return rows


def any_flip_chance(paraphrases: FloatArray, flips: FloatArray, drawn: int) -> FloatArray:
    """Probability [questions] that `drawn` of a question's paraphrases [questions], `flips` of which flip, hold a flip.

    1 - C(n - f, k) / C(n, k), hypergeometric.
    """
    from scipy.stats import hypergeom

    return np.asarray(hypergeom.sf(0, paraphrases, flips, drawn), float)
