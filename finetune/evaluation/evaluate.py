"""Measuring the base, adapters and clamps on held-out questions: consistent, accurate, still looking at the image?"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import (
    Answers,
    EvaluationTable,
    Subset,
    correct_by_margin,
    gradable,
    says_yes,
    truly_yes,
)
from finetune.evaluation.arms import Arm, seed_pools
from finetune.evaluation.collect import collect_answers, swap_images
from finetune.evaluation.compare import Comparison, compare, subsets_of
from finetune.evaluation.measures import ECE_BINS, MEASURES, confidence, confidence_bin
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, Quadrants, quadrants
from finetune.evaluation.verdict import Verdict, verdict
from finetune.lora.settings import NEW_TOKENS, TOLERANCE
from interp.measurement.clamp_spec import Clamp
from interp.measurement.clamps import clamped, fill_mean_values, matched_clamps
from interp.measurement.margins import measure
from interp.model.blank_images import BLANKS, encode_blanks
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.runtime.progress import spinner
from interp.statistics import FloatArray, mean_of_totals
from interp.storage.json_files import json_ready
from interp.storage.provenance import provenance, software
from interp.views.notebook import page_html, plotted, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROLS = 5
"""Control clamps beside a clamp."""
FEWEST = 20
"""Wordings answered alike that are no chance: one in half a million at even odds."""
SCHEMA_VERSION = 2
"""Of evaluation.json."""


class ClampControl(NamedTuple):
    """The same clamp of other features, as active as the clamped ones."""

    features: list[str]
    """LAYER:FEATURE of each."""
    question_flip_rate: float
    """Share of closed questions with a flipped paraphrase."""
    accuracy: float
    """Share of right answers of closed questions, all wordings; NaN where no answer is known."""


class ReliabilityBin(NamedTuple):
    """One point of a reliability curve."""

    arm: str
    """Name of the arm."""
    low: float
    """Least confidence in the bin."""
    n: int
    """Wordings of closed questions with a known answer in it."""
    confidence: float
    """Their mean confidence, sigmoid |m|."""
    accuracy: float
    """Share of them answered rightly."""


@dataclass(frozen=True)
class Evaluation:
    """Some arms side by side on one set of questions; the first is the base."""

    arms: dict[str, list[Clamp]]
    """Name of each arm -> the features clamped in it."""
    pools: dict[str, list[str]]
    """Name of each pool -> the arms that differ in their training's seed only."""
    comparisons: list[Comparison]
    """One entry a measure, subset, and couple of arms."""
    quadrants: list[Quadrants]
    """One entry an arm and kind of reliance."""
    reliability: list[ReliabilityBin]
    """The reliability curve of every arm."""
    verdicts: dict[str, Verdict]
    """Every arm and pool but the base -> the verdict on it."""
    controls: dict[str, list[ClampControl]]
    """Every arm with clamps -> other features clamped in their place."""
    tolerance: float
    """Loss that a verdict allows for, as a share of the questions."""
    model: str
    """The base model."""
    questions: int
    """Number of questions."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    data: str
    """Fingerprint of the questions."""
    seed: int
    """Seed of bootstrap, permutations, noise and swapped images."""
    collapsed: dict[str, str] = field(default_factory=dict)
    """Every arm that gives one answer to all closed questions, though both are true of some -> a sentence on it."""

    @property
    def base(self) -> str:
        """Name of the first arm."""
        return next(iter(self.arms))

    @property
    def shown(self) -> list[str]:
        """The arms and pools that a table has room for: pools in place of their members."""
        pooled = {name for members in self.pools.values() for name in members}
        return [name for name in self.verdicts if name not in pooled]

    @property
    def sentences(self) -> list[str]:
        """The verdicts on what is shown, and what makes them worthless."""
        return [*(self.verdicts[name].sentence for name in self.shown), *self.collapsed.values()]

    def against_base(self) -> dict[tuple[str, str, str, str], Comparison]:
        """Arm or pool, measure, kind and name of the subset -> the comparison with the base."""
        return {(c.arm, c.measure, c.kind, c.subset): c for c in self.comparisons if c.reference == self.base}

    def find(self, arm: str, measure: str, kind: str = "all", subset: str = "all") -> Comparison:
        """The comparison of an arm or pool with the base. Raises KeyError if there is none."""
        return self.against_base()[arm, measure, kind, subset]

    def table(self) -> pd.DataFrame:
        """One row a comparison; value, low and high of each estimate are columns of their own."""
        rows = []
        for comparison in self.comparisons:
            row = comparison._asdict()
            for name in ESTIMATES:
                estimate = row.pop(name)
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot_changes(self, ax: "Axes | None" = None) -> "Axes":
        """Draw what changed against the base; as every `plot_` of `interp.search.find.FindResult`."""
        from interp.views.figures.evaluation import changes_against_base, changes_frame

        return plotted(changes_against_base, changes_frame(json.loads(self.to_json())), ax)

    def plot_reliability(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of right answers by confidence, an arm a line."""
        from interp.views.figures.evaluation import reliability, reliability_frame

        return plotted(reliability, reliability_frame(json.loads(self.to_json())), ax)

    def plot_quadrants(self) -> "list[Axes]":
        """Show the quadrants of every arm in a new figure, a panel a kind of reliance."""
        from interp.views.figures.evaluation import shown_arms
        from interp.views.figures.quadrants import quadrants, quadrants_frame

        content = json.loads(self.to_json())
        return shown(quadrants(quadrants_frame(content, shown_arms(content))))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.model}: {' '.join(self.sentences)}>"

    def _repr_html_(self) -> str:
        from finetune.evaluation.terminal import controls_lines, evaluation_table, groups_table, quadrants_table

        tables = [evaluation_table(self), groups_table(self), quadrants_table(self)]
        return page_html("\n".join(self.sentences), controls_lines(self), tables)

    def to_json(self) -> str:
        """The whole result as JSON, indented; undefined numbers are null. No text, path or patient is in it."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "verdict": " ".join(self.sentences),
            "verdicts": {name: _verdict_record(found) for name, found in self.verdicts.items()},
            "tolerance": self.tolerance,
            "arms": {name: [clamp.record() for clamp in clamps] for name, clamps in self.arms.items()},
            "pools": self.pools,
            "controls": self.controls,
            "collapsed": self.collapsed,
            "model": self.model,
            "questions": self.questions,
            "patients": self.patients,
            "data": self.data,
            "seed": self.seed,
            "software": software(),
            "provenance": provenance().model_dump(),
            "quadrants": self.quadrants,
            "quadrant_order": QUADRANTS,
            "reliability": self.reliability,
            "comparisons": self.comparisons,
        }
        return json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"


ESTIMATES = ("before", "after", "difference")
"""The estimates of a comparison."""


def evaluate(
    vlm: Vlm,
    arms: Sequence[Arm],
    questions: Sequence[Question],
    known: Collection[str] | None = None,
    seed: int = 0,
    sae_of: Mapping[int, Path] = MappingProxyType({}),
    tolerance: float = TOLERANCE,
    new_tokens: int = NEW_TOKENS,
) -> Evaluation:
    """Compare some arms with the first, the base; the weights are held once.

    `known` are the hashes of the adapters' training texts (see `finetune.lora.seen_texts`), None if unknown. `sae_of`
    (layer ->
    SAE folder) is where the controls of the clamps come from, other features as active as the clamped ones. A clamp at
    the feature's mean takes it over the wordings evaluated on, in its arm before the clamp. With `new_tokens` 0 no
    answers are generated, and the measures of them are left out. Raises InputError if there is nothing to compare or
    no question, for unreadable images, for a clamp beyond the model, or if a margin is not finite.
    """
    if len(arms) < 2:
        raise InputError("Nothing to compare with the base. Give an adapter, features to --clamp, or both.")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two arms are named {name!r}. Rename a folder, or leave one out.")
    if not questions:
        raise InputError("No questions to evaluate on.")
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
    encode_blanks(vlm, list(prompts["image"]), seed)
    others = swap_images(prompts, seed)
    answers: dict[str, Answers] = {}
    clamps: dict[str, list[Clamp]] = {}
    controls: dict[str, list[ClampControl]] = {}
    for arm in arms:
        with arm.enter():
            if BLANKS["mean"] not in vlm.image_tokens:
                encode_blanks(vlm, list(prompts["image"]), seed)
            clamps[arm.name] = fill_mean_values(vlm, prompts, arm.clamps)
            with clamped(vlm, clamps[arm.name]):
                answers[arm.name] = collect_answers(vlm, prompts, others, new_tokens, arm.name)
            if arm.clamps and len(pairs):
                like = matched_clamps(vlm, prompts, clamps[arm.name], sae_of, CONTROLS)
                controls[arm.name] = [measure_control(vlm, prompts, pairs, held) for held in like]
    with spinner("intervals and tests"):
        base = answers[arms[0].name]
        pools = seed_pools(arms)
        comparisons = compare(prompts, pairs, answers, pools, subsets_of(prompts, pairs, known), seed)
        collapsed = {name: said for name, found in answers.items() if (said := collapse(prompts, found, name))}
        judged = {arm.name: [arm.name] for arm in arms[1:]} | pools
        return Evaluation(
            arms=clamps,
            pools=pools,
            comparisons=comparisons,
            quadrants=[
                quadrants(prompts, pairs, base, found, name, reliance, seed)
                for name, found in answers.items()
                for reliance in RELIANCE
                if len(pairs)
            ],
            reliability=[point for name, found in answers.items() for point in reliability(prompts, found, name)],
            verdicts={
                name: verdict(comparisons, arms[0].name, name, tolerance, any(one in collapsed for one in members))
                for name, members in judged.items()
            },
            controls=controls,
            tolerance=tolerance,
            model=vlm.name,
            questions=len(questions),
            patients=prompts["patient"].nunique(),
            data=fingerprint(questions),
            seed=seed,
            collapsed=collapsed,
        )


def collapse(prompts: pd.DataFrame, answers: Answers, arm: str) -> str | None:
    """A sentence on an arm that answers all wordings of closed questions alike, though both answers are true of some.

    None if it does not, or if there are too few wordings to tell.
    """
    rows = gradable(prompts)
    said, truth = says_yes(answers.margin[rows]), truly_yes(prompts)[rows]
    if len(said) < FEWEST or len(set(truth)) < 2 or len(set(said)) > 1:
        return None
    answer, wrong = ("yes", ~truth) if said[0] else ("no", truth)
    return (
        f"Collapsed: {arm} answers {answer} to all {len(said)} wordings of closed questions, though that is not true "
        f"of {wrong.sum()}; that no answer flips means nothing."
    )


def measure_control(vlm: Vlm, prompts: pd.DataFrame, pairs: pd.DataFrame, clamps: Sequence[Clamp]) -> ClampControl:
    """Flips and accuracy of the model as it stands, with other features clamped; `pairs` are of closed questions."""
    with clamped(vlm, clamps):
        margin = measure(vlm, prompts, description="control").margin.double().numpy()
    everything = Subset("all", "all", np.ones(len(prompts), bool), np.ones(len(pairs), bool))
    answers = _margins_only(margin)
    flips, right = (
        mean_of_totals(MEASURES[name].units(EvaluationTable(prompts, pairs, everything), answers).columns.sum(0))
        for name in ("question_flip_rate", "accuracy")
    )
    return ClampControl([f"{c.layer}:{c.feature}" for c in clamps], float(flips), float(right))


def _margins_only(margin: FloatArray) -> Answers:
    nothing = np.full(len(margin), np.nan)
    return Answers(margin, nothing > 0, {}, nothing[:, None], np.full(len(margin), None, dtype=object), nothing)


def reliability(prompts: pd.DataFrame, answers: Answers, arm: str) -> list[ReliabilityBin]:
    """The reliability curve of one arm (Guo et al., arXiv 1706.04599), of closed questions; empty bins are left out."""
    rows = gradable(prompts)
    margin, correct = answers.margin[rows], correct_by_margin(prompts, answers)[rows]
    sure, place = confidence(margin), confidence_bin(margin)
    return [
        ReliabilityBin(
            arm, 0.5 + i / (2 * ECE_BINS), int(inside.sum()), float(sure[inside].mean()), float(correct[inside].mean())
        )
        for i in range(ECE_BINS)
        if (inside := place == i).any()
    ]


def _verdict_record(found: Verdict) -> dict[str, Any]:
    axes = [
        {"axis": j.axis, "measure": j.comparison.measure, "state": j.state, "needed": j.needed}
        for j in found.judgements
    ]
    return {"label": found.label, "sentence": found.sentence, "axes": axes}
