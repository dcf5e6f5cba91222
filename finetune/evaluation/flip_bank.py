"""PSF-Med's FlipBank (arXiv 2602.21428): flips of unambiguous answers between wordings that are nearly the same."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers
from interp.questions.wording_similarity import WordingSimilarity
from interp.schemas.evaluation import FlipBank
from interp.storage.json_files import significant

LEAST_SIMILARITY = 0.95
"""Similarity above which PSF-Med takes wordings to be alike."""


def flip_banks(
    pairs: pd.DataFrame, answers: Mapping[str, Answers], similarity: WordingSimilarity | None
) -> list[FlipBank]:
    """The FlipBank of every arm whose answers were generated; `pairs` are those of closed questions."""
    return [
        flip_bank(pairs, found, similarity, arm)
        for arm, found in answers.items()
        if not np.isnan(found.right_sequence).all()
    ]


def flip_bank(pairs: pd.DataFrame, answers: Answers, similarity: WordingSimilarity | None, arm: str) -> FlipBank:
    """The FlipBank of one arm; without `similarity`, all wordings of a question count as alike.

    An answer is unambiguous if its text says either yes or no by keyword
    (`interp.questions.generated_answers.parse_yes_no`), without any fallback.
    """
    before, after = (answers.parsed[pairs[name].to_numpy()] for name in ("original", "paraphrase"))
    clear = np.array([a is not None and b is not None for a, b in zip(before, after, strict=True)], dtype=bool)
    flips = clear & (before != after)
    alike = np.ones(len(pairs), bool) if similarity is None else similarity.cosine > LEAST_SIMILARITY
    banked = pairs[flips & alike]
    return FlipBank(
        arm=arm,
        pairs=int(clear.sum()),
        flips=int(flips.sum()),
        encoder=None if similarity is None else similarity.encoder,
        least_similarity=None if similarity is None else LEAST_SIMILARITY,
        similarity=significant(float(np.median(similarity.cosine[flips]))) if similarity and flips.any() else None,
        banked=len(banked),
        questions=banked["question"].nunique(),
        patients=banked["patient"].nunique(),
    )
