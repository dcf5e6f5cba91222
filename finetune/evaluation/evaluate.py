"""Measures the base, adapters and clamps on held-out questions: consistency, accuracy and reliance on the image."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, EvaluationTable, Subset
from finetune.evaluation.arms import Arm, seed_pools
from finetune.evaluation.assess import AskedArms, assess, question_tables
from finetune.evaluation.collect import collect_answers, swaps_of
from finetune.evaluation.engine import PackedEngine
from finetune.evaluation.feature_activations import feature_activations, load_feature_saes
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.result import Evaluation
from finetune.evaluation.settings import NEW_TOKENS, TOLERANCE
from interp.measurement.clamp_spec import Clamp
from interp.measurement.clamps import clamped, fill_mean_values, matched_clamps
from interp.measurement.margins import measure
from interp.model.blank_images import ALL_BLANKS, BLANKS
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.wording_similarity import pair_similarity
from interp.runtime.errors import InputError
from interp.runtime.progress import spinner
from interp.schemas.evaluation import ClampControl
from interp.statistics import FloatArray, mean_of_totals
from interp.storage.json_files import significant

CONTROLS = 5
"""Number of control clamps beside a clamp."""


def evaluate(
    vlm: Vlm,
    arms: Sequence[Arm],
    questions: Sequence[Question],
    known: Collection[str] | None = None,
    seed: int = 0,
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    tolerance: float = TOLERANCE,
    new_tokens: int = NEW_TOKENS,
    features: Sequence[tuple[int, int]] = (),
    encoder: str | Path | None = None,
) -> Evaluation:
    """Compare some arms with the first, the base. All arms share one copy of the weights.

    `known` are the hashes of the adapters' training texts (`finetune.lora.seen_texts`), None if unknown. `sae_of`
    (layer -> SAE folder) provides the controls of the clamps: other features, about as active as the clamped ones. A
    clamp at the feature's mean uses the mean over the wordings of this evaluation, in its arm without the clamp. With
    `new_tokens` 0 no answers are generated, and the measures of generated answers are left out. The activations of
    `features`, (layer, feature) of the SAEs in `sae_of`, are tried as detectors of flips. `encoder` is a sentence
    encoder that tells which wordings are alike (`finetune.evaluation.flip_bank`). Raises InputError if there is nothing
    to compare or no question, for unreadable images, for a clamp or a feature that model or SAE do not have, and if a
    margin is not finite.
    """
    if len(arms) < 2:
        raise InputError("There is nothing to compare with the base. Give an adapter, features to --clamp, or both.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two arms are named {name!r}. Rename a folder, or leave one out.")
    tables = question_tables(questions)
    prompts, pairs = tables
    similarity = None if encoder is None else pair_similarity(prompts, pairs, encoder)
    engine, others = PackedEngine(vlm), swaps_of(questions, prompts, seed)
    engine.prepare_blanks(list(prompts["image"]), seed)
    detecting = load_feature_saes(vlm, features, sae_of)
    answers: dict[str, Answers] = {}
    activations: dict[str, FloatArray] = {}
    clamps: dict[str, list[Clamp]] = {}
    controls: dict[str, list[ClampControl]] = {}
    for arm in arms:
        with arm.enter():
            if BLANKS["mean"] not in vlm.image_tokens:
                engine.prepare_blanks(list(prompts["image"]), seed)
            clamps[arm.name] = fill_mean_values(vlm, prompts, arm.clamps)
            with clamped(vlm, clamps[arm.name]):
                answers[arm.name] = collect_answers(engine, prompts, others, new_tokens, arm.name, ALL_BLANKS)
                if detecting:
                    activations[arm.name] = feature_activations(vlm, prompts, detecting)
            if arm.clamps and len(pairs):
                like = matched_clamps(vlm, prompts, clamps[arm.name], sae_of, CONTROLS)
                controls[arm.name] = [measure_control(vlm, prompts, pairs, held) for held in like]
    asked = AskedArms(
        model=vlm.name,
        answers=answers,
        activations=activations,
        features=[f"{sae.layer}:{feature}" for sae, mine in detecting for feature in mine],
        clamps=clamps,
        controls=controls,
        warnings={arm.name: arm.warnings for arm in arms},
        pools=seed_pools(arms),
    )
    with spinner("intervals and tests"):
        return assess(questions, tables, asked, known, similarity, tolerance, seed)


def measure_control(vlm: Vlm, prompts: pd.DataFrame, pairs: pd.DataFrame, clamps: Sequence[Clamp]) -> ClampControl:
    """Flips and accuracy of the model in its present state under some clamps; `pairs` are those of closed questions."""
    with clamped(vlm, clamps):
        margin = measure(vlm, prompts, description="control").margin.double().numpy()
    everything = Subset("all", "all", np.ones(len(prompts), bool), np.ones(len(pairs), bool))
    answers = _margins_only(margin)
    flips, right = (
        mean_of_totals(MEASURES[name].units(EvaluationTable(prompts, pairs, everything), answers).columns.sum(0))
        for name in ("question_flip_rate", "accuracy")
    )
    return ClampControl(
        features=[f"{clamp.layer}:{clamp.feature}" for clamp in clamps],
        question_flip_rate=significant(float(flips)),
        accuracy=significant(float(right)),
    )


def _margins_only(margin: FloatArray) -> Answers:
    nothing = np.full(len(margin), np.nan)
    return Answers(margin, nothing > 0, {}, nothing[:, None], np.full(len(margin), None, dtype=object), nothing)
