"""The four quadrants of "Consistent but Dangerous" (arXiv 2603.20985), and how questions move between them.

A question is consistent or not, and its answer relies on the image or not. A consistent answer that does not rely on
the image is the dangerous one, because nothing about it suggests that it may be wrong.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, Bools, blank_agreement, closed_originals, flipped, swap_change_rate
from interp.model.blank_images import BLANKS
from interp.schemas.evaluation import Quadrants
from interp.schemas.record import interval_of
from interp.statistics import mean_interval, same_marginals_p
from interp.storage.json_files import significant

QUADRANTS = ("ideal", "fragile", "dangerous", "worst")
"""In this order: consistent and reliant; reliant only; consistent only; neither."""
RELIANCE = ("grey", "any")
"""Definitions of reliance. `grey`: the answer changes with the grey blank, as published. `any`: it changes with any
blank or with another patient's image, so that an answer which one blank repeats by chance does not count against the
model."""


def quadrant_of(prompts: pd.DataFrame, pairs: pd.DataFrame, answers: Answers, reliance: str) -> NDArray[np.intp]:
    """[questions] index into QUADRANTS of every question with pairs, in ascending order of the questions."""
    rows = originals_with_pairs(prompts, pairs)
    flips = pairs.assign(flipped=flipped(pairs, answers.margin))
    consistent = ~flips.groupby("question", sort=True)["flipped"].any().to_numpy(bool)
    reliant = blank_agreement(answers, ("grey",))[rows] < 1
    if reliance == "any":
        # The swap rate is NaN if there is no other patient; the comparison counts that as no change.
        reliant = (blank_agreement(answers, tuple(BLANKS))[rows] < 1) | (swap_change_rate(answers)[rows] > 0)
    return np.where(reliant, np.where(consistent, 0, 1), np.where(consistent, 2, 3))


def originals_with_pairs(prompts: pd.DataFrame, pairs: pd.DataFrame) -> Bools:
    """[n] whether each row is the original wording of a closed question that has pairs."""
    return closed_originals(prompts) & prompts["question"].isin(pairs["question"]).to_numpy(bool)


def quadrants(
    prompts: pd.DataFrame, pairs: pd.DataFrame, base: Answers, arm: Answers, name: str, reliance: str, seed: int
) -> Quadrants:
    """Return the quadrants of the arm `name` and its moves from the base; `pairs` are those of closed questions."""
    before, after = (quadrant_of(prompts, pairs, answers, reliance) for answers in (base, arm))
    patients = prompts["patient"][originals_with_pairs(prompts, pairs)].tolist()
    moves = np.zeros((4, 4), dtype=int)
    np.add.at(moves, (before, after), 1)
    shares = {quadrant: mean_interval(after == i, patients, seed) for i, quadrant in enumerate(QUADRANTS)}
    return Quadrants(
        arm=name,
        reliance=reliance,
        questions=len(after),
        shares={quadrant: interval_of(share) for quadrant, share in shares.items()},
        moves=moves.tolist(),
        p=significant(same_marginals_p(before, after, patients, seed)),
    )
