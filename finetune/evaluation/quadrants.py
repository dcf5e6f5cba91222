"""The four quadrants: consistent or not, resting on the image or not; and how questions move between them.

After "Consistent but Dangerous" (arXiv 2603.20985): a consistent answer that does not rest on the image is the
dangerous one, since nothing in it shows that it is wrong.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, Bools, blank_agreement, closed_originals, flipped, swap_change_rate
from interp.model.blank_images import BLANKS
from interp.statistics import Estimate, mean_interval, same_marginals_p

QUADRANTS = ("ideal", "fragile", "dangerous", "worst")
"""consistent and reliant; reliant only; consistent only; neither."""
RELIANCE = ("grey", "any")
"""grey: the answer changes with the grey blank (the published definition). any: with any blank or other patient's
image; an answer that a blank gives by chance too is not held against the model."""


class Quadrants(NamedTuple):
    """Where one arm's closed questions with paraphrases stand, and where they stood in the base."""

    arm: str
    """Name of the arm."""
    reliance: str
    """Which substitutes decide whether a question rests on the image: one of RELIANCE."""
    questions: int
    """Number of questions."""
    shares: dict[str, Estimate]
    """Quadrant -> share of the questions, with its interval over patients."""
    moves: list[list[int]]
    """[4, 4] questions that were in the row's quadrant in the base and are in the column's here, as QUADRANTS."""
    p: float
    """Stuart-Maxwell test that the four shares are those of the base; 1 for the base."""


def quadrant_of(prompts: pd.DataFrame, pairs: pd.DataFrame, answers: Answers, reliance: str) -> NDArray[np.intp]:
    """Index into QUADRANTS of every question with pairs, ascending by question."""
    rows = originals_with_pairs(prompts, pairs)
    flips = pairs.assign(flipped=flipped(pairs, answers.margin))
    consistent = ~flips.groupby("question", sort=True)["flipped"].any().to_numpy(bool)
    reliant = blank_agreement(answers, ("grey",))[rows] < 1
    if reliance == "any":
        # NaN, where no other patient exists, is no change.
        reliant = (blank_agreement(answers, tuple(BLANKS))[rows] < 1) | (swap_change_rate(answers)[rows] > 0)
    return np.where(reliant, np.where(consistent, 0, 1), np.where(consistent, 2, 3))


def originals_with_pairs(prompts: pd.DataFrame, pairs: pd.DataFrame) -> Bools:
    """[n] the original wordings of the closed questions that have pairs, ascending by question."""
    return closed_originals(prompts) & prompts["question"].isin(pairs["question"]).to_numpy(bool)


def quadrants(
    prompts: pd.DataFrame, pairs: pd.DataFrame, base: Answers, arm: Answers, name: str, reliance: str, seed: int
) -> Quadrants:
    """The quadrants of one arm and the moves from the base; `pairs` are of closed questions."""
    before, after = (quadrant_of(prompts, pairs, answers, reliance) for answers in (base, arm))
    patients = prompts["patient"][originals_with_pairs(prompts, pairs)].tolist()
    moves = np.zeros((4, 4), dtype=int)
    np.add.at(moves, (before, after), 1)
    shares = {quadrant: mean_interval(after == i, patients, seed) for i, quadrant in enumerate(QUADRANTS)}
    return Quadrants(name, reliance, len(after), shares, moves.tolist(), same_marginals_p(moves))
