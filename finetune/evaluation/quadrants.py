"""The four quadrants of "Consistent but Dangerous" (arXiv 2603.20985), and how questions move between them.

A question is consistent or not, and its answer relies on the image or not. A consistent answer that does not rely on
the image is the dangerous one, because nothing about it suggests that it may be wrong.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import (
    Answers,
    Bools,
    answer_known,
    blank_agreement,
    closed_originals,
    flipped,
    has_opposite,
    opposite_margin,
    says_yes,
    swap_change_rate,
    truly_yes,
)
from interp.model.blank_images import BLANKS
from interp.schemas.evaluation import QuadrantMeans, Quadrants
from interp.schemas.record import interval_of
from interp.statistics import FloatArray, mean_interval, same_marginals_p, share_interval
from interp.storage.json_files import significant

QUADRANTS = ("ideal", "fragile", "dangerous", "worst")
"""In this order: consistent and reliant; reliant only; consistent only; neither."""
RELIANCE = ("grey", "any", "opposite")
"""Definitions of reliance. `grey`: the answer changes with the grey blank, as published. `any`: it changes with any
blank or with another patient's image, so that an answer which one blank repeats by chance does not count against the
model. `opposite`: it changes with another patient's image on which the opposite answer is true, so that a perfect model
relies on the image in every question; questions without such an image are left out."""


def judged_pairs(pairs: pd.DataFrame, answers: Answers, reliance: str) -> pd.DataFrame:
    """Those `pairs` of closed questions on which a definition of reliance can be applied."""
    if reliance != "opposite":
        return pairs
    return pairs[has_opposite(answers)[pairs["original"].to_numpy()]]


def quadrant_of(prompts: pd.DataFrame, pairs: pd.DataFrame, answers: Answers, reliance: str) -> NDArray[np.intp]:
    """[questions] index into QUADRANTS of every question with `pairs`, in ascending order of the questions."""
    rows = originals_with_pairs(prompts, pairs)
    flips = pairs.assign(flipped=flipped(pairs, answers.margin))
    consistent = ~flips.groupby("question", sort=True)["flipped"].any().to_numpy(bool)
    reliant = blank_agreement(answers, ("grey",))[rows] < 1
    if reliance == "any":
        # The swap rate is NaN if there is no other patient; the comparison counts that as no change.
        reliant = (blank_agreement(answers, tuple(BLANKS))[rows] < 1) | (swap_change_rate(answers)[rows] > 0)
    elif reliance == "opposite":
        reliant = says_yes(opposite_margin(answers)[rows]) != says_yes(answers.margin[rows])
    return np.where(reliant, np.where(consistent, 0, 1), np.where(consistent, 2, 3))


def originals_with_pairs(prompts: pd.DataFrame, pairs: pd.DataFrame) -> Bools:
    """[n] whether each row is the original wording of a closed question that has pairs."""
    return closed_originals(prompts) & prompts["question"].isin(pairs["question"]).to_numpy(bool)


def quadrants(
    prompts: pd.DataFrame, pairs: pd.DataFrame, base: Answers, arm: Answers, name: str, reliance: str, seed: int
) -> Quadrants | None:
    """Return the quadrants of the arm `name` and its moves from the base; `pairs` are those of closed questions.

    None if the definition of reliance can be applied to no question.
    """
    pairs = judged_pairs(pairs, base, reliance)
    if not len(pairs):
        return None
    before, after = (quadrant_of(prompts, pairs, answers, reliance) for answers in (base, arm))
    rows = originals_with_pairs(prompts, pairs)
    patients = prompts["patient"][rows].tolist()
    moves = np.zeros((4, 4), dtype=int)
    np.add.at(moves, (before, after), 1)
    shares = {quadrant: share_interval(after == i, patients, seed) for i, quadrant in enumerate(QUADRANTS)}
    asked = original_answers(prompts[rows], arm.margin[rows])
    return Quadrants(
        arm=name,
        reliance=reliance,
        questions=len(after),
        shares={quadrant: interval_of(share) for quadrant, share in shares.items()},
        moves=moves.tolist(),
        p=significant(same_marginals_p(before, after, patients, seed)),
        inside={
            quadrant: quadrant_means(asked[after == i], seed)
            for i, quadrant in enumerate(QUADRANTS)
            if (after == i).any()
        },
    )


def original_answers(originals: pd.DataFrame, margin: FloatArray) -> pd.DataFrame:
    """How right and how sure the answers to some original wordings are, a row each.

    `originals` are rows of a prompt table, `margin` their margins [logits]. Columns: patient; right (1 or 0, NaN where
    the true answer is unknown), size (|m| [logits]) and entropy [bits].
    """
    right = np.where(answer_known(originals), says_yes(margin) == truly_yes(originals), np.nan)
    columns = {"patient": originals["patient"].to_numpy(object), "right": right.astype(float)}
    return pd.DataFrame(columns | {"size": np.abs(margin), "entropy": answer_entropy(margin)})


def answer_entropy(margin: FloatArray) -> FloatArray:
    """Entropy [bits] of the answer among yes and no, whose log odds are the margin [logits]: 1 at even odds.

    Predictive entropy, as in arXiv 2604.08941, of a single forward pass.
    """
    size = np.abs(np.asarray(margin, float))
    odds = np.exp(-size)
    # -log(1 - p) = log(1 + odds), and -log(p) = that + size, for the less probable answer of probability p.
    return (np.log1p(odds) + size * odds / (1 + odds)) / np.log(2)


def quadrant_means(asked: pd.DataFrame, seed: int) -> QuadrantMeans:
    """Means over the questions of one quadrant, rows of `original_answers`, with intervals over patients."""
    known, patients = asked[asked["right"].notna()], asked["patient"].tolist()
    accuracy = share_interval(known["right"].to_numpy(), known["patient"].tolist(), seed)
    size, entropy = (mean_interval(asked[name].to_numpy(), patients, seed) for name in ("size", "entropy"))
    return QuadrantMeans(
        questions=len(asked),
        accuracy=interval_of(accuracy),
        margin=interval_of(size),
        entropy=interval_of(entropy),
    )
