"""The result of an ablation, and the schema of ablation.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from finetune.ablation.arm_files import ArmRecord
from finetune.ablation.conclusion import conclusion
from finetune.ablation.metrics import (
    COMBINED,
    HeldOutQuestions,
    PatientTotals,
    WeightedMetrics,
    is_share,
    mean_over_seeds,
    patient_totals,
    patient_weights,
    weighted_metrics,
)
from finetune.ablation.plan import AblationSettings, PlannedArm
from finetune.ablation.profile_validity import layer_scores, picked_window, profile_validity
from finetune.ablation.regret import Regret, goodness, rank_windows, regrets
from finetune.evaluation.answers import Answers
from finetune.training.sensitivity import Sensitivity
from interp.schemas.layers import Interval, ModelEntry, Module, ProfileEntry, PromptEntry
from interp.statistics import FloatArray, percentiles
from interp.storage.provenance import Provenance, provenance, software
from interp.views.notebook import page_html, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1
CHANCE = "chance"
"""Stands among the scores for a window taken at random."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ArmEntry(_Part):
    """One arm, pooled over its seeds."""

    name: str = Field(description="as tables call it")
    kind: str = Field(description="why it is there (finetune.ablation.plan.ArmKind)")
    layers: list[int] = Field(description="layers that were trained")
    rank: int = Field(description="rank of every update")
    ranks: dict[str, int] | None = Field(
        default=None, description="rank by layer and module, as 4.mlp, of an arm of earlier versions with unequal ranks"
    )
    alpha: int = Field(description="the update is scaled by alpha / rank")
    consistency_weight: float = Field(description="weight of the divergence")
    answer_weight: float = Field(description="weight of the cross-entropy")
    parameters: int = Field(description="of the adapter")
    cross_entropy: list[float] = Field(description="of every seed, mean over the last tenth of its steps [nats]")
    divergence: list[float] = Field(description="of every seed, mean over the last tenth of its steps [nats]")
    seconds: list[float] = Field(description="duration of every seed's training")
    metrics: dict[str, Interval] = Field(description="every metric")
    against_base: dict[str, Interval] = Field(description="arm - base, paired")
    against_chosen: dict[str, Interval] = Field(description="arm - chosen range, paired")


class RankEntry(_Part):
    """The place of one window among the windows, 1 being best."""

    arm: str = Field(description="name of the window's arm")
    first: int = Field(description="1 + number of windows that are shown to be better")
    last: int = Field(description="number of windows - number of those that are shown to be worse")


class RegretEntry(_Part):
    """What the choice cost in one metric (finetune.ablation.regret)."""

    metric: str = Field(description="the metric")
    best: str = Field(description="arm of the window that is best on all the data")
    optimistic: float | None = Field(description="how much better it is there; above 0 by luck alone")
    regret: Interval = Field(description="how much better the windows are that were best on other patients and seeds")
    picked: dict[str, float | None] = Field(description="arm -> how often it was best there")
    ranks: list[RankEntry] = Field(description="the place of every window")


class WorthEntry(_Part):
    """How far a score of the layer profile tells a metric of the windows (finetune.ablation.profile_validity)."""

    score: str = Field(description="of the profile, mean over a window's layers")
    metric: str = Field(description="of the windows")
    windows: int = Field(description="number of windows")
    rho: Interval = Field(description="Spearman's rank correlation, positive if the higher the better")
    p: float | None = Field(description="two-sided, layers permuted")


class SensitivityEntry(_Part):
    """How steeply the loss falls in a fresh adapter of one module of one layer (finetune.training.sensitivity)."""

    layer: int = Field(description="decoder layer")
    module: Module = Field(description="its attention or its MLP")
    gradient: float = Field(description="norm of the gradient of the mean loss")
    fisher: float = Field(description="mean squared norm of a question's gradient")


class RuleEntry(_Part):
    """What would have come of taking the window of the highest score, in place of the chosen range."""

    score: str = Field(description="of a layer, mean over a window's; depth takes the earliest, chance the mean of all")
    arm: str | None = Field(description="the window that it takes; null for chance")
    regret: dict[str, Interval] = Field(description="metric -> regret of that window (finetune.ablation.regret)")


class DataEntry(_Part):
    """The questions; no text, path or patient among it."""

    trained_on: str = Field(description="fingerprint of the training questions")
    training_questions: int = Field(description="their number")
    asked: str = Field(description="fingerprint of the questions that were asked")
    questions: int = Field(description="their number")
    patients: int = Field(description="their patients, or images where unknown")


class Ablation(_Part):
    """The whole of ablation.json."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="version of this schema")
    conclusion: list[str] = Field(description="what it comes to, a sentence each")
    chosen: list[int] = Field(description="the chosen range")
    layers_from: str = Field(description="what chose it")
    model: ModelEntry = Field(description="the frozen base")
    base_weights: str = Field(description="hash of its weights")
    prompt: PromptEntry = Field(description="how the questions were put to it")
    data: DataEntry = Field(description="the questions")
    settings: dict[str, Any] = Field(description="of the ablation, those of the training inside")
    combined: str = Field(
        default="accuracy - question_flip_rate - max(0, text_only_agreement - text_only_agreement of the base)",
        description="definition of the combined score",
    )
    base: dict[str, Interval] = Field(description="every metric of the base")
    arms: list[ArmEntry] = Field(description="every arm, the chosen range first")
    regret: list[RegretEntry] = Field(description="one entry a metric; empty without other windows")
    worth: list[WorthEntry] = Field(description="one entry a score of the profile and metric")
    rules: list[RuleEntry] = Field(
        default_factory=list, description="one entry a score: what it would have chosen, and the regret of that"
    )
    sensitivity: list[SensitivityEntry] = Field(
        default_factory=list, description="gradient of the loss by layer and module, before any training"
    )
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")

    def plot_arms(self) -> "list[Axes]":
        """Show every arm in a new figure, a panel a metric; the chosen range has a star, the base is a line."""
        from interp.views.figures.ablation import ablation, ablation_frame

        return shown(ablation(ablation_frame(self.model_dump())))

    def __repr__(self) -> str:
        return f"<Ablation of {self.model.id}: layers {self.chosen} beside {len(self.arms) - 1} other arms>"

    def _repr_html_(self) -> str:
        from finetune.ablation.terminal import arms_table, rules_table, windows_table

        tables = [arms_table(self), *([windows_table(self), rules_table(self)] if self.regret else [])]
        return page_html("\n".join(self.conclusion), [], tables)

    def to_json(self) -> str:
        """As it is written, indented."""
        return self.model_dump_json(indent=2) + "\n"


class Trained(NamedTuple):
    """One arm after its training."""

    arm: PlannedArm
    """What it is."""
    seeds: list[tuple[Answers, ArmRecord]]
    """What it answered, by seed."""


def summarize(
    asked: HeldOutQuestions,
    base: Answers,
    trained: Sequence[Trained],
    profile: Sequence[ProfileEntry],
    sensitivity: Sequence[Sensitivity],
    settings: AblationSettings,
    **about: Any,
) -> Ablation:
    """All arms side by side; the first is the chosen range. `about` are the fields of `Ablation` that say of what."""
    patients, arms = len(asked.patients), [each.arm for each in trained]
    sums = patient_totals(asked, base, [[answers for answers, _ in each.seeds] for each in trained])
    found = weighted_metrics(sums, patient_weights(patients, settings.seed))
    windows = [i for i, arm in enumerate(arms) if arm.kind in ("chosen", "window")]
    costs = []
    if len(windows) > 1:
        costs = regrets(PatientTotals(_only(sums.arms, windows), sums.base), 0, patients, settings.seed)
    # The profile tells of runs of layers; a chosen range with gaps is none.
    runs = [i for i in windows if arms[i].contiguous]
    along = WeightedMetrics(_only(found.arms, runs), found.base)
    scores = layer_scores(profile, sensitivity)
    told = profile_validity(scores, [arms[i].layers for i in runs], along, patients, settings.seed)
    made = asdict(settings)
    del made["training"]["seed"]
    return Ablation(
        conclusion=conclusion(arms, goodness(found, COMBINED), costs, told, patients),
        chosen=list(arms[0].layers),
        settings=made,
        base={name: Interval.of(percentiles(float(d[0]), d[1:], patients)) for name, d in found.base.items()},
        arms=[_arm_entry(each, i, found, patients) for i, each in enumerate(trained)],
        regret=[
            _regret_entry(cost, [arms[i].name for i in windows], goodness(found, cost.metric)[:, windows], patients)
            for cost in costs
        ],
        rules=_rules(costs, [arms[i] for i in windows], scores),
        sensitivity=[SensitivityEntry(**each._asdict()) for each in sensitivity],
        worth=[
            WorthEntry(score=w.score, metric=w.metric, windows=w.windows, rho=Interval.of(w.rho), p=_number(w.p))
            for w in told
        ],
        software=software(),
        provenance=provenance(),
        **about,
    )


def _only(tables: dict[str, FloatArray], arms: Sequence[int]) -> dict[str, FloatArray]:
    """Tables [.., arms, seeds, ..], arms second, of some arms."""
    return {name: table[:, list(arms)] for name, table in tables.items()}


def _arm_entry(trained: Trained, place: int, found: WeightedMetrics, patients: int) -> ArmEntry:
    arm = trained.arm
    went = [record.training for _, record in trained.seeds if record.training]
    metrics, against_base, against_chosen = {}, {}, {}
    for name, values in found.arms.items():
        own = values[:, place]
        metrics[name] = Interval.of(mean_over_seeds(own, patients, share=is_share(name)))
        against_base[name] = Interval.of(mean_over_seeds(own - found.base[name][:, None], patients))
        against_chosen[name] = Interval.of(mean_over_seeds(own - values[:, 0], patients))
    return ArmEntry(
        name=arm.name,
        kind=arm.kind,
        layers=list(arm.layers),
        rank=arm.training.rank,
        alpha=arm.training.alpha,
        consistency_weight=arm.training.consistency_weight,
        answer_weight=arm.training.answer_weight,
        parameters=arm.parameters,
        cross_entropy=[round(each.cross_entropy, 6) for each in went],
        divergence=[round(each.divergence, 6) for each in went],
        seconds=[each.seconds for each in went],
        metrics=metrics,
        against_base=against_base,
        against_chosen=against_chosen,
    )


def _rules(
    costs: Sequence[Regret], windows: Sequence[PlannedArm], scores: Mapping[str, Mapping[int, float]]
) -> list[RuleEntry]:
    """What each score would have chosen among the windows, and chance; nothing without other windows."""
    if not costs:
        return []
    entries = []
    for score, of_layer in scores.items():
        picked = picked_window(of_layer, [window.layers for window in windows], score)
        if picked is not None:
            regret = {cost.metric: Interval.of(cost.of_windows[picked]) for cost in costs}
            entries.append(RuleEntry(score=score, arm=windows[picked].name, regret=regret))
    chance = {cost.metric: Interval.of(cost.of_chance) for cost in costs}
    return [*entries, RuleEntry(score=CHANCE, arm=None, regret=chance)]


def _regret_entry(cost: Regret, names: Sequence[str], good: FloatArray, patients: int) -> RegretEntry:
    return RegretEntry(
        metric=cost.metric,
        best=names[cost.best],
        optimistic=_number(cost.optimistic),
        regret=Interval.of(cost.regret),
        picked={name: _number(share) for name, share in zip(names, cost.picked.tolist(), strict=True)},
        ranks=[
            RankEntry(arm=name, first=place.first, last=place.last)
            for name, place in zip(names, rank_windows(good, patients), strict=True)
        ],
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
