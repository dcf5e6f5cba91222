"""What was asked, what an arm answered, and the units that a measure is taken over."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.statistics import FloatArray

Bools = NDArray[np.bool_]


class Answers(NamedTuple):
    """What one model answered to the n rows of a prompt table; NaN and None where it was not asked."""

    margin: FloatArray
    """[n] answer margin [logits]."""
    right_token: Bools
    """[n] whether the most probable first token is that of the true answer, whatever its case or leading space."""
    blank_margin: dict[str, FloatArray]
    """Kind of blank (a key of BLANKS) -> [n] margin with it; grey for all wordings of closed questions, the others for
    their original wording."""
    swapped_margin: FloatArray
    """[n, s] margin of the original wording of closed questions with the images of s other patients."""
    parsed: NDArray[np.object_]
    """[n] yes or no as the generated answer to a closed question says it; None if it says neither or both."""
    right_sequence: FloatArray
    """[n] 1 where the generated answer begins with the whole true answer, else 0; NaN where it was not generated."""


class Subset(NamedTuple):
    """A group of wordings and of pairs."""

    kind: str
    """all, phrasings, type, finding, register, registers or phenomenon."""
    name: str
    """Which one of its kind."""
    prompts: Bools
    """[n] the rows of the prompt table."""
    pairs: Bools
    """[m] the rows of the pair table."""


class Sheet(NamedTuple):
    """What was asked, and in which group of it a measure is taken."""

    prompts: pd.DataFrame
    """[n] prompt table (interp.questions.tables.prompt_table)."""
    pairs: pd.DataFrame
    """[m] pair table of its closed questions."""
    subset: Subset
    """The group."""


class Units(NamedTuple):
    """What a statistic is taken over."""

    columns: FloatArray
    """[k, c] what the statistic sums."""
    patients: list[str]
    """[k] whom each unit comes from."""


def closed_originals(prompts: pd.DataFrame) -> Bools:
    """[n] the original wordings of closed questions."""
    return (prompts["closed"] & (prompts["variant"] == 0)).to_numpy(bool)


def says_yes(margin: FloatArray) -> Bools:
    """Whether each margin means yes."""
    return margin > 0


def flipped(pairs: pd.DataFrame, margin: FloatArray) -> Bools:
    """[m] whether the two wordings of each pair are answered differently."""
    return says_yes(margin[pairs["original"].to_numpy()]) != says_yes(margin[pairs["paraphrase"].to_numpy()])


def answered(prompts: pd.DataFrame) -> Bools:
    """[n] wordings whose true answer is known."""
    return prompts["answer"].notna().to_numpy(bool)


def truly_yes(prompts: pd.DataFrame) -> Bools:
    """[n] wordings whose true answer is yes."""
    return (prompts["answer"] == "yes").to_numpy(bool)


def judged(prompts: pd.DataFrame) -> Bools:
    """[n] wordings of closed questions with a known answer."""
    return answered(prompts) & prompts["closed"].to_numpy(bool)


def answered_rightly(prompts: pd.DataFrame, answers: Answers) -> Bools:
    """[n] whether the margin's sign is that of the true answer, where `judged`."""
    return says_yes(answers.margin) == truly_yes(prompts)


def stays(answers: Answers, kinds: tuple[str, ...]) -> FloatArray:
    """[n] share of these blanks with which the answer stays; NaN where they were not shown."""
    blank = np.stack([answers.blank_margin[kind] for kind in kinds], axis=1)
    return np.where(np.isnan(blank), np.nan, says_yes(blank) == says_yes(answers.margin)[:, None]).mean(1)


def swaps_change(answers: Answers) -> FloatArray:
    """[n] share of other patients' images that change the answer; NaN where none was shown."""
    other = answers.swapped_margin
    return np.where(np.isnan(other), np.nan, says_yes(other) != says_yes(answers.margin)[:, None]).mean(1)
