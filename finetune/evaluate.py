"""Measuring base and adapter, or a clamp, on held-out questions: consistent, accurate, still looking at the image?"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from finetune.compare import MEASURES, Arm, Comparison, closed_originals, compare, subsets_of
from finetune.verdict import verdict
from interp.artifact import Interval
from interp.clamps import Clamp, clamped, like_clamps, with_means
from interp.errors import InputError
from interp.files import software
from interp.images import BLANK_IMAGE
from interp.prompts import first_answer_token
from interp.questions import Question, fingerprint, pair_table, prompt_table
from interp.vlm import Vlm, measure

if TYPE_CHECKING:
    from peft import PeftModel

CONTROLS = 5
"""Control clamps beside a clamp."""
ARMS = ("base", "adapter", "difference")
"""The estimates of a comparison; `adapter` is the second arm, whatever it is."""


class ClampControl(NamedTuple):
    """The same clamp of other features, as active as the clamped ones."""

    features: list[str]
    """LAYER:FEATURE of each."""
    question_flip_rate: float
    """Share of closed questions with a flipped paraphrase."""
    accuracy: float
    """Share of right answers of closed questions, all wordings; NaN where no answer is known."""


@dataclass(frozen=True)
class Evaluation:
    """The base and a second arm side by side on one set of questions."""

    comparisons: list[Comparison]
    """One entry a measure and subset."""
    verdict: str
    """One sentence."""
    arm: str
    """What the second arm is: adapter, clamp, or adapter + clamp."""
    clamps: list[Clamp]
    """Features held at a value in the second arm."""
    controls: list[ClampControl]
    """Other features clamped in their place."""
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
            "arm": self.arm,
            "clamps": [clamp.record() for clamp in self.clamps],
            "controls": [control._asdict() for control in self.controls],
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
    adapted: "PeftModel | None",
    questions: Sequence[Question],
    known: Collection[str] | None = None,
    seed: int = 0,
    clamps: Sequence[Clamp] = (),
    sae_of: Mapping[int, Path] = MappingProxyType({}),
) -> Evaluation:
    """Compare the base with a second arm: its adapter, feature clamps, or both; the weights are held once.

    `adapted` is `vlm.model` with its adapter, None for none. `known` are the hashes of the adapter's training texts
    (see `finetune.texts`), None if unknown. `sae_of` (layer -> SAE folder) is where the controls of the clamps come
    from, other features as active as the clamped ones. A clamp at the feature's mean takes it over the wordings
    evaluated on, in the second arm before the clamp. Raises InputError if there is no second arm, if there are no
    questions, for unreadable images, for a clamp beyond the model, or if a margin is not finite.
    """
    arm = arm_name(adapted is not None, bool(clamps))
    if not questions:
        raise InputError("No questions to evaluate on.")
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
    held = with_means(vlm, prompts, clamps)
    with clamped(vlm, held):
        changed = measure_arm(vlm, prompts, arm)
    others = like_clamps(vlm, prompts, held, sae_of, CONTROLS) if held and len(pairs) else []
    controls = [measure_control(vlm, prompts, pairs, clamps) for clamps in others]
    with adapted.disable_adapter() if adapted is not None else nullcontext():
        base = measure_arm(vlm, prompts, "base")
    comparisons = compare(prompts, pairs, base, changed, subsets_of(prompts, pairs, known), seed)
    return Evaluation(
        comparisons=comparisons,
        verdict=verdict(comparisons, arm),
        arm=arm,
        clamps=held,
        controls=controls,
        model=vlm.name,
        questions=len(questions),
        patients=prompts["patient"].nunique(),
        data=fingerprint(questions),
        seed=seed,
    )


def measure_control(vlm: Vlm, prompts: pd.DataFrame, pairs: pd.DataFrame, clamps: Sequence[Clamp]) -> ClampControl:
    """Flips and accuracy of the model as it stands, with other features clamped; `pairs` are of closed questions."""
    with clamped(vlm, clamps):
        margin = measure(vlm, prompts, description="control").margin.double().numpy()
    nothing = np.full(len(prompts), np.nan)
    everything = subsets_of(prompts, pairs, None)[0]
    arm = Arm(margin, nothing, nothing)
    flips, right = (
        MEASURES[name](prompts, pairs, arm, everything).values for name in ("question_flip_rate", "accuracy")
    )
    accuracy = float(right.mean()) if len(right) else float("nan")
    return ClampControl([f"{c.layer}:{c.feature}" for c in clamps], float(flips.mean()), accuracy)


def arm_name(adapter: bool, clamp: bool) -> str:
    """What the second arm is called. Raises InputError if it would be the base itself."""
    if not adapter and not clamp:
        raise InputError("Nothing to compare with the base. Give an adapter, features to --clamp, or both.")
    return " + ".join(["adapter"] * adapter + ["clamp"] * clamp)


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
