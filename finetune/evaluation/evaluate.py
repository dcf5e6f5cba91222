"""Measures the base, adapters and clamps on held-out questions: consistency, accuracy and reliance on the image."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field, InstanceOf

from finetune.evaluation.answers import (
    Answers,
    EvaluationTable,
    Subset,
    gradable,
    says_yes,
    truly_yes,
)
from finetune.evaluation.arms import Arm, seed_pools
from finetune.evaluation.collect import collect_answers, swaps_of
from finetune.evaluation.compare import compare, subsets_of
from finetune.evaluation.engine import PackedEngine
from finetune.evaluation.feature_activations import feature_activations, load_feature_saes
from finetune.evaluation.flip_detection import flip_detection
from finetune.evaluation.items import evaluation_items
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, quadrants
from finetune.evaluation.reliability import reliability
from finetune.evaluation.settings import NEW_TOKENS, TOLERANCE
from finetune.evaluation.verdict import ArmVerdict, verdict
from interp.measurement.clamp_spec import Clamp
from interp.measurement.clamps import clamped, fill_mean_values, matched_clamps
from interp.measurement.margins import measure
from interp.model.blank_images import BLANKS
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.runtime.progress import spinner
from interp.schemas import evaluation as schema
from interp.schemas.evaluation import ClampControl
from interp.schemas.record import Interval
from interp.statistics import FloatArray, mean_of_totals
from interp.storage.json_files import json_ready, significant
from interp.storage.provenance import provenance, software
from interp.views.notebook import plotted, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROLS = 5
"""Number of control clamps beside a clamp."""
FEWEST = 20
"""Fewest equal answers that count as a collapse; at even odds, so many are equal once in half a million times."""


class Evaluation(schema.Evaluation):
    """Some arms side by side on one set of questions; the first is the base.

    Numbers have six significant digits and are None where they are undefined, as in evaluation.json.
    """

    item_table: InstanceOf[pd.DataFrame] | None = Field(
        default=None, exclude=True, description="one row per arm and wording (`finetune.evaluation.items`)"
    )

    def items(self, text: bool = False) -> pd.DataFrame:
        """What every arm did on each single wording, before and after: the columns of `interp.schemas.items`.

            broken = evaluation.items().query("not flipped_before and flipped_after")

        With `text` also the two wordings. Raises InputError for a loaded evaluation that did not keep its items.
        """
        if self.item_table is None:
            raise InputError("This evaluation did not keep its items. Evaluate again with --keep-items.")
        if text and "text" not in self.item_table:
            raise InputError("These items were kept without text. Give interp.with_questions the questions too.")
        return self.item_table if text else self.item_table.drop(columns=["original", "text"], errors="ignore")

    def find(self, arm: str, measure: str, kind: str = "all", subset: str = "all") -> schema.Comparison:
        """The comparison of an arm or pool with the base. Raises KeyError if there is none."""
        return self.against_base()[arm, measure, kind, subset]

    def table(self) -> pd.DataFrame:
        """One row per comparison; value, low and high of each estimate are columns of their own."""
        return pd.DataFrame([_flat(comparison) for comparison in self.comparisons])

    def plot_changes(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the changes against the base into `ax`, or into a new figure; returns the axes."""
        from interp.views.figures.evaluation import changes_against_base, changes_frame

        return plotted(changes_against_base, changes_frame(self.model_dump()), ax)

    def plot_reliability(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of right answers by confidence, one line per arm."""
        from interp.views.figures.evaluation import reliability, reliability_frame

        return plotted(reliability, reliability_frame(self.model_dump()), ax)

    def plot_quadrants(self) -> "list[Axes]":
        """Show the quadrants of every arm in a new figure, one panel per kind of reliance."""
        from interp.views.figures.evaluation import shown_arms
        from interp.views.figures.quadrants import quadrants, quadrants_frame

        content = self.model_dump()
        return shown(quadrants(quadrants_frame(content, shown_arms(content))))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.model}: {' '.join(self.sentences)}>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.evaluation import evaluation_overview

        return overview_html(evaluation_overview(self))


def _flat(comparison: schema.Comparison) -> dict[str, Any]:
    """A comparison as one row: the ends of its intervals are entries of their own, undefined numbers NaN."""
    row: dict[str, Any] = {}
    for name, value in comparison:
        if isinstance(value, Interval):
            row |= {name: _nan(value.value), f"{name}_low": _nan(value.low), f"{name}_high": _nan(value.high)}
        else:
            row[name] = _nan(value) if value is None else value
    return row


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


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
) -> Evaluation:
    """Compare some arms with the first, the base. All arms share one copy of the weights.

    `known` are the hashes of the adapters' training texts (`finetune.lora.seen_texts`), None if unknown. `sae_of`
    (layer -> SAE folder) provides the controls of the clamps: other features, about as active as the clamped ones. A
    clamp at the feature's mean uses the mean over the wordings of this evaluation, in its arm without the clamp. With
    `new_tokens` 0 no answers are generated, and the measures of generated answers are left out. The activations of
    `features`, (layer, feature) of the SAEs in `sae_of`, are tried as detectors of flips. Raises InputError if there is
    nothing to compare or no question, for unreadable images, for a clamp or a feature that model or SAE do not have,
    and if a margin is not finite.
    """
    if len(arms) < 2:
        raise InputError("There is nothing to compare with the base. Give an adapter, features to --clamp, or both.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two arms are named {name!r}. Rename a folder, or leave one out.")
    if not questions:
        raise InputError("There are no questions to evaluate on.")
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
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
                answers[arm.name] = collect_answers(engine, prompts, others, new_tokens, arm.name)
                if detecting:
                    activations[arm.name] = feature_activations(vlm, prompts, detecting)
            if arm.clamps and len(pairs):
                like = matched_clamps(vlm, prompts, clamps[arm.name], sae_of, CONTROLS)
                controls[arm.name] = [measure_control(vlm, prompts, pairs, held) for held in like]
    with spinner("intervals and tests"):
        base = answers[arms[0].name]
        pools = seed_pools(arms)
        comparisons = compare(prompts, pairs, answers, pools, subsets_of(prompts, pairs, known), seed)
        collapsed = {name: said for name, found in answers.items() if (said := collapse(prompts, found, name))}
        judged = {arm.name: [arm.name] for arm in arms[1:]} | pools
        verdicts = {
            name: verdict(comparisons, arms[0].name, name, tolerance, any(one in collapsed for one in members))
            for name, members in judged.items()
        }
        return Evaluation(
            verdicts={
                name: verdict_record(found, [said for arm in arms if arm.name in judged[name] for said in arm.warnings])
                for name, found in verdicts.items()
            },
            tolerance=significant(tolerance),
            arms={name: [json_ready(clamp.record()) for clamp in held] for name, held in clamps.items()},
            pools=pools,
            controls=controls,
            collapsed=collapsed,
            model=vlm.name,
            questions=len(questions),
            patients=prompts["patient"].nunique(),
            data=fingerprint(questions),
            seed=seed,
            software=software(),
            provenance=provenance(),
            quadrants=[
                stand
                for name, found in answers.items()
                for reliance in RELIANCE
                if (stand := quadrants(prompts, pairs, base, found, name, reliance, seed)) is not None
            ],
            reliability=[point for name, found in answers.items() for point in reliability(prompts, found, name)],
            detection=[
                entry
                for name, found in answers.items()
                for entry in flip_detection(prompts, pairs, found, name, activations.get(name), seed)
            ],
            detector_features=[f"{sae.layer}:{feature}" for sae, mine in detecting for feature in mine],
            quadrant_order=list(QUADRANTS),
            comparisons=[schema.Comparison.model_validate(json_ready(each)) for each in comparisons],
            item_table=evaluation_items(prompts, pairs, answers),
        )


def verdict_record(found: ArmVerdict, warnings: Sequence[str] = ()) -> schema.Verdict:
    """A verdict as evaluation.json holds it, with the warnings on its arms."""
    return schema.Verdict(
        label=found.label,
        sentence=found.sentence,
        axes=[
            schema.Axis(axis=each.axis, measure=each.comparison.measure, state=each.state, needed=each.needed)
            for each in found.judgements
        ],
        warnings=list(warnings),
    )


def collapse(prompts: pd.DataFrame, answers: Answers, arm: str) -> str | None:
    """A sentence on an arm that gives one answer to all wordings of closed questions, though both answers occur.

    None if the arm does not, or if there are fewer than FEWEST wordings.
    """
    rows = gradable(prompts)
    said, truth = says_yes(answers.margin[rows]), truly_yes(prompts)[rows]
    if len(said) < FEWEST or len(set(truth)) < 2 or len(set(said)) > 1:
        return None
    answer, wrong = ("yes", ~truth) if said[0] else ("no", truth)
    return (
        f"Collapsed: {arm} answers {answer} to all {len(said)} wordings of closed questions, though that is wrong "
        f"for {wrong.sum()}; the absence of flips means nothing."
    )


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
