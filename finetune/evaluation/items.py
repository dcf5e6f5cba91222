"""The items of an evaluation: what the base and every arm did on each single wording, in memory and on disk."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, Bools, correct_by_margin, flipped, gradable
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, judged_pairs, originals_with_pairs, quadrant_of
from interp.questions.item_keys import item_keys
from interp.questions.item_texts import texts_of
from interp.questions.lexicon import named_finding
from interp.schemas.items import EVALUATION_ITEMS, TEXT


def evaluation_items(prompts: pd.DataFrame, pairs: pd.DataFrame, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """One row per arm other than the base and wording: the columns of TEXT and EVALUATION_ITEMS.

    `pairs` are those of closed questions, and `answers` maps each arm to its answers, the base first.
    """
    base, *arms = answers
    asked, before = _asked(prompts, pairs), _did(prompts, pairs, answers[base], answers[base], "before")
    tables = [
        pd.concat([asked.assign(arm=arm), before, _did(prompts, pairs, answers[base], answers[arm], "after")], axis=1)
        for arm in arms
    ]
    return pd.concat(tables, ignore_index=True)[[*TEXT, *EVALUATION_ITEMS]]


def _asked(prompts: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """[n] what was asked in each row of the prompt table, with the texts."""
    keys, texts = item_keys(prompts), texts_of(prompts)
    closed = prompts["closed"].to_numpy(bool)
    registers = np.full(len(prompts), None, object)
    registers[pairs["paraphrase"].to_numpy()] = pairs["registers"].to_numpy(object)
    return texts.assign(
        question_key=keys.question,
        patient_key=keys.patient,
        wording=prompts["variant"].to_numpy(),
        type=prompts["type"].to_numpy(),
        finding=[named_finding(text) for text in texts["original"]],
        phenomenon=prompts["phenomenon"].fillna("untagged").to_numpy(),
        registers=registers,
        # The answers to open questions are text of the user's.
        answer=np.where(closed, prompts["answer"].to_numpy(object), None),
        closed=closed,
    )


def _did(prompts: pd.DataFrame, pairs: pd.DataFrame, base: Answers, arm: Answers, when: str) -> pd.DataFrame:
    """[n] what an arm did in each row, in columns that end in `when`; where it cannot be said, null."""
    found = {
        "margin": arm.margin,
        "blank_margin": arm.blank_margin["grey"],
        "correct": _known(correct_by_margin(prompts, arm), gradable(prompts)),
        "first_token": _known(arm.right_token, prompts["answer"].notna().to_numpy(bool)),
        "flipped": _flips(len(prompts), pairs, arm),
    }
    for reliance in RELIANCE:
        found[f"quadrant_{reliance}"] = _quadrants(prompts, judged_pairs(pairs, base, reliance), arm, reliance)
    return pd.DataFrame({f"{name}_{when}": column for name, column in found.items()})


def _known(values: Bools, where: Bools) -> "pd.Series[bool]":
    """Booleans that are null except `where` they mean something."""
    return pd.Series(values).astype("boolean").where(pd.Series(where))


def _flips(n: int, pairs: pd.DataFrame, arm: Answers) -> "pd.Series[bool]":
    place = pairs["paraphrase"].to_numpy()
    flips, paraphrase = np.zeros(n, bool), np.zeros(n, bool)
    flips[place], paraphrase[place] = flipped(pairs, arm.margin), True
    return _known(flips, paraphrase)


def _quadrants(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Answers, reliance: str) -> NDArray[np.object_]:
    """[n] name of the quadrant of each row's question."""
    if not len(pairs):
        return np.full(len(prompts), None, object)
    rows = originals_with_pairs(prompts, pairs)
    names = np.array(QUADRANTS, object)[quadrant_of(prompts, pairs, arm, reliance)]
    of_question = dict(zip(prompts["question"][rows], names, strict=True))
    return np.array([of_question.get(question) for question in prompts["question"]], object)
