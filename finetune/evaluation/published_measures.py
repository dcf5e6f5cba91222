"""PSF-Med's own definitions (arXiv 2602.21428), beside ours: flips of parsed greedy answers, and its noise image."""

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.answers import (
    Answers,
    EvaluationTable,
    SamplingUnits,
    closed_originals,
    says_yes,
)
from finetune.evaluation.measure import Measure, any_of_question, over_prompts


def _parsed(answers: Answers) -> NDArray[np.object_]:
    """[n] yes or no as the published parser reads it; None for excluded answers and where it was not applied."""
    return np.full(len(answers.margin), None, dtype=object) if answers.published is None else answers.published


def _question_flips(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    before, after = (_parsed(answers)[table.pairs[name].to_numpy()] for name in ("original", "paraphrase"))
    both = np.array([a is not None and b is not None for a, b in zip(before, after, strict=True)], dtype=bool)
    return any_of_question(table, before != after, table.subset.pairs & both)


def _excluded(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    generated = table.prompts["closed"].to_numpy(bool) & ~np.isnan(answers.right_sequence)
    return over_prompts(table, np.array([word is None for word in _parsed(answers)]), generated)


def _gaussian(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    margin = answers.blank_margin.get("gaussian", np.full(len(answers.margin), np.nan))
    rows = closed_originals(table.prompts) & ~np.isnan(margin)
    return over_prompts(table, says_yes(margin) == says_yes(answers.margin), rows)


PUBLISHED: dict[str, Measure] = {
    "published_flip_rate": Measure(
        "PSF-Med's flip rate: share of closed questions with at least one paraphrase whose greedy answer, as its "
        "parser reads it (normal and clear mean no), differs from the original wording's. Answers that cannot be "
        "parsed are excluded, and so are questions without a parsed pair.",
        _question_flips,
        "%",
        grouped=False,
    ),
    "published_excluded": Measure(
        "Share of generated answers to closed questions out of which PSF-Med's parser reads neither yes nor no.",
        _excluded,
        "%",
        grouped=False,
    ),
    "text_only_agreement_gaussian": Measure(
        "Share of closed questions, in their original wording, whose answer stays the same on an image of Gaussian "
        "noise, 128 ± 64 (PSF-Med's appendix).",
        _gaussian,
        "%",
        grouped=False,
    ),
}
"""Name -> measure, in display order."""
