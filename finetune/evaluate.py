"""Measuring base and adapter on held-out questions: consistent, accurate, still looking at the image?"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from finetune.compare import Arm, Comparison, closed_originals, compare, subsets_of
from finetune.verdict import verdict
from interp.artifact import Interval
from interp.errors import InputError
from interp.files import software
from interp.images import BLANK_IMAGE
from interp.prompts import first_answer_token
from interp.questions import Question, fingerprint, pair_table, prompt_table
from interp.vlm import Vlm, measure

if TYPE_CHECKING:
    from peft import PeftModel

ARMS = ("base", "adapter", "difference")


@dataclass(frozen=True)
class Evaluation:
    """Base and adapter side by side on one set of questions."""

    comparisons: list[Comparison]
    """One entry a measure and subset."""
    verdict: str
    """One sentence."""
    model: str
    """The base model."""
    questions: int
    """Number of questions."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    data: str
    """Fingerprint of the questions."""
    seed: int
    """Seed of bootstrap and permutations."""

    def table(self) -> pd.DataFrame:
        """One row a comparison; each arm's value, low and high are columns of their own."""
        rows = []
        for comparison in self.comparisons:
            row = comparison._asdict()
            for arm in ARMS:
                estimate = row.pop(arm)
                row |= {arm: estimate.value, f"{arm}_low": estimate.low, f"{arm}_high": estimate.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """The whole result as JSON, indented; undefined numbers are null."""
        rows: list[dict[str, Any]] = []
        for comparison in self.comparisons:
            intervals = {arm: Interval.of(getattr(comparison, arm)).model_dump() for arm in ARMS}
            rows.append(comparison._asdict() | intervals)
        content = {
            "schema_version": 1,
            "verdict": self.verdict,
            "model": self.model,
            "questions": self.questions,
            "patients": self.patients,
            "data": self.data,
            "seed": self.seed,
            "software": software(),
            "comparisons": rows,
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def evaluate(
    vlm: Vlm,
    adapted: "PeftModel",
    questions: Sequence[Question],
    known: Collection[str] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare `vlm.model` without and with its adapter; the weights are held once.

    `known` are the hashes of the adapter's training texts (see `finetune.texts`), None if unknown. Raises InputError
    if there are no questions, for unreadable images, or if a margin is not finite.
    """
    if not questions:
        raise InputError("No questions to evaluate on.")
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
    adapter = measure_arm(vlm, prompts, "adapter")
    with adapted.disable_adapter():
        base = measure_arm(vlm, prompts, "base")
    comparisons = compare(prompts, pairs, base, adapter, subsets_of(prompts, pairs, known), seed)
    return Evaluation(
        comparisons=comparisons,
        verdict=verdict(comparisons),
        model=vlm.name,
        questions=len(questions),
        patients=prompts["patient"].nunique(),
        data=fingerprint(questions),
        seed=seed,
    )


def measure_arm(vlm: Vlm, prompts: pd.DataFrame, name: str) -> Arm:
    """Measure the model as it stands on every row of a prompt table, and on its closed originals without the image."""
    tokenizer = vlm.processor.tokenizer
    seen = measure(vlm, prompts, description=name)
    word_of = {answer: first_answer_token(tokenizer, answer) for answer in set(prompts["answer"].dropna())}
    right = [_word(tokenizer, token) for token in seen.top_token.tolist()]
    true = [_word(tokenizer, word_of[answer]) if answer in word_of else None for answer in prompts["answer"]]
    blank_margin = np.full(len(prompts), np.nan)
    rows = closed_originals(prompts)
    if rows.any():
        blank = measure(vlm, prompts[rows].assign(image=BLANK_IMAGE), description=f"{name}, blank image")
        blank_margin[rows] = blank.margin.double().numpy()
    return Arm(seen.margin.double().numpy(), np.array(right) == np.array(true), blank_margin)


def _word(tokenizer: Any, token: int) -> str:
    """A token without case and outer blanks, so that Yes, yes and ▁yes are one answer."""
    return tokenizer.decode([token]).strip().lower()
