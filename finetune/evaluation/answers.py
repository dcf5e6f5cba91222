"""What an arm was asked and answered, and the units that a measure samples."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.statistics import FloatArray

Bools = NDArray[np.bool_]


class Answers(NamedTuple):
    """The answers of one model to the n rows of a prompt table; NaN or None for what was not asked."""

    margin: FloatArray
    """[n] answer margin, the yes/no logit difference [logits]."""
    right_token: Bools
    """[n] whether the most probable first token is that of the true answer, regardless of case and leading space."""
    blank_margin: dict[str, FloatArray]
    """Kind of blank image (of ALL_BLANKS) -> [n] margin with it [logits]. The grey blank is used with all wordings of
    closed questions, the others with the original wordings only."""
    swapped_margin: FloatArray
    """[n, s] margin of the original wordings of closed questions with the images of s other patients [logits]."""
    parsed: NDArray[np.object_]
    """[n] "yes" or "no" as parsed from the generated answer to a closed question; None if it says neither or both."""
    right_sequence: FloatArray
    """[n] 1 if the generated answer begins with the whole true answer, else 0; NaN if none was generated."""
    published: NDArray[np.object_] | None = None
    """[n] "yes" or "no" as PSF-Med's parser reads the generated answer to a closed question, None if it excludes the
    answer; None in place of the array if the parser was not applied."""
    opposite_margin: FloatArray | None = None
    """[n] margin of the original wordings of closed questions with the image of another patient about whom the same was
    asked with the opposite answer [logits]; NaN where there is none; None if no such image was shown."""


class Subset(NamedTuple):
    """A group of wordings and of pairs."""

    kind: str
    """The property that defines the group: all, phrasings, type, finding, register, registers or phenomenon."""
    name: str
    """The value of that property in the group."""
    prompts: Bools
    """[n] which rows of the prompt table belong to the group."""
    pairs: Bools
    """[m] which rows of the pair table belong to the group."""


class EvaluationTable(NamedTuple):
    """What every arm was asked, and the group of it on which a measure is computed."""

    prompts: pd.DataFrame
    """[n] prompt table, one row a wording (`interp.questions.tables.prompt_table`)."""
    pairs: pd.DataFrame
    """[m] pair table of the closed questions, one row an original with one of its paraphrases."""
    subset: Subset
    """The group."""


class SamplingUnits(NamedTuple):
    """The units of a measure: questions, pairs or wordings, which its statistic sums over."""

    columns: FloatArray
    """[k, c] the numbers of each unit; the statistic is a function of their column totals."""
    patients: list[str]
    """[k] the patient of each unit; the bootstrap resamples patients."""


def closed_originals(prompts: pd.DataFrame) -> Bools:
    """[n] whether each row is the original wording of a closed question."""
    return (prompts["closed"] & (prompts["variant"] == 0)).to_numpy(bool)


def says_yes(margin: FloatArray) -> Bools:
    """Whether each margin means yes."""
    return margin > 0


def flipped(pairs: pd.DataFrame, margin: FloatArray) -> Bools:
    """[m] whether the two wordings of each pair get different answers."""
    return says_yes(margin[pairs["original"].to_numpy()]) != says_yes(margin[pairs["paraphrase"].to_numpy()])


def answer_known(prompts: pd.DataFrame) -> Bools:
    """[n] whether the true answer of each wording is known."""
    return prompts["answer"].notna().to_numpy(bool)


def truly_yes(prompts: pd.DataFrame) -> Bools:
    """[n] whether the true answer of each wording is yes."""
    return (prompts["answer"] == "yes").to_numpy(bool)


def gradable(prompts: pd.DataFrame) -> Bools:
    """[n] whether each wording belongs to a closed question with a known answer."""
    return answer_known(prompts) & prompts["closed"].to_numpy(bool)


def correct_by_margin(prompts: pd.DataFrame, answers: Answers) -> Bools:
    """[n] whether the sign of the margin is that of the true answer; meaningful where `gradable`."""
    return says_yes(answers.margin) == truly_yes(prompts)


def blank_agreement(answers: Answers, kinds: tuple[str, ...]) -> FloatArray:
    """[n] share of these kinds of blanks with which the answer stays the same; NaN where they were not shown."""
    blank = np.stack([answers.blank_margin[kind] for kind in kinds], axis=1)
    return np.where(np.isnan(blank), np.nan, says_yes(blank) == says_yes(answers.margin)[:, None]).mean(1)


def opposite_margin(answers: Answers) -> FloatArray:
    """[n] margin with the image of the opposite answer; NaN where none was shown."""
    return np.full(len(answers.margin), np.nan) if answers.opposite_margin is None else answers.opposite_margin


def has_opposite(answers: Answers) -> Bools:
    """[n] whether an image with the opposite answer was shown: only with closed questions of known answer."""
    return ~np.isnan(opposite_margin(answers))


def swap_change_rate(answers: Answers) -> FloatArray:
    """[n] share of other patients' images that change the answer; NaN where none was shown."""
    other = answers.swapped_margin
    return np.where(np.isnan(other), np.nan, says_yes(other) != says_yes(answers.margin)[:, None]).mean(1)
