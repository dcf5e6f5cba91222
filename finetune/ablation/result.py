"""The result of an ablation: every arm summarized as ablation.json holds it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from finetune.ablation.conclusion import conclusion
from finetune.ablation.metrics import (
    COMBINED,
    HeldOutQuestions,
    WeightedMetrics,
    mean_over_seeds,
    patient_totals,
    patient_weights,
    weighted_metrics,
)
from finetune.ablation.plan import PlannedArm
from finetune.ablation.profile_validity import layer_scores, picked_window, profile_validity
from finetune.ablation.regret import WindowRegret, goodness, rank_windows, regrets
from finetune.ablation.settings import AblationSettings
from finetune.evaluation.answers import Answers
from finetune.training.sensitivity import Sensitivity
from interp.schemas import ablation as schema
from interp.schemas.ablation import CHANCE, AblationArm, ArmRecord, Rule, SensitivityEntry, Worth
from interp.schemas.layers import ProfileEntry
from interp.schemas.record import Interval
from interp.statistics import FloatArray
from interp.storage.provenance import joined, provenance, software
from interp.views.labels import scale_of
from interp.views.notebook import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Ablation(schema.Ablation):
    """Every arm of an ablation side by side, the chosen range first, as in ablation.json.

    >>> ablation.table()["arm"].tolist()
    [...]
    >>> axes = ablation.plot_arms()
    """

    def table(self) -> pd.DataFrame:
        """One row per arm, the chosen range first: its layers, parameters, and metrics in the units of the screen."""
        about = ("name", "kind", "layers", "parameters")
        return pd.DataFrame(
            [
                {name: getattr(arm, name) for name in about}
                | {name: _number_of(name, found.value) for name, found in arm.metrics.items()}
                for arm in self.arms
            ]
        ).rename(columns={"name": "arm"})

    def plot_arms(self) -> "list[Axes]":
        """Show every arm in a new figure, one panel per metric; the chosen range has a star, the base is a line."""
        from interp.views.figures.ablation import ablation, ablation_frame

        return shown(ablation(ablation_frame(self.model_dump())))

    def __repr__(self) -> str:
        return f"<Ablation of {self.model.id}: layers {self.chosen} beside {len(self.arms) - 1} other arms>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.ablation import ablation_overview

        return overview_html(ablation_overview(self))


def _number_of(metric: str, value: float | None) -> float:
    return math.nan if value is None else scale_of(metric).factor * value


class Trained(NamedTuple):
    """One arm after its training."""

    arm: PlannedArm
    """The arm as it was planned."""
    seeds: list[tuple[Answers, ArmRecord]]
    """The answers after the training with each seed, and their record."""


def summarize(
    asked: HeldOutQuestions,
    base: Answers,
    trained: Sequence[Trained],
    profile: Sequence[ProfileEntry],
    sensitivity: Sequence[Sensitivity],
    settings: AblationSettings,
    **about: Any,
) -> Ablation:
    """Summarize all arms, the chosen range first. `about` are the other fields of `Ablation`: model, data and so on."""
    patients, arms = len(asked.patients), [each.arm for each in trained]
    sums = patient_totals(asked, base, [[answers for answers, _ in each.seeds] for each in trained])
    found = weighted_metrics(sums, patient_weights(patients, settings.seed))
    windows = [i for i, arm in enumerate(arms) if arm.kind in ("chosen", "window")]
    costs = []
    if len(windows) > 1:
        costs = regrets(sums._replace(arms=_only(sums.arms, windows)), 0, patients, settings.seed)
    # The profile predicts consecutive layers only, so a chosen range with gaps is left out.
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
        base={
            name: Interval.of(mean_over_seeds(d[:, None], patients, sums.sizes.get(name)))
            for name, d in found.base.items()
        },
        arms=[_arm_entry(each, i, found, sums.sizes, patients) for i, each in enumerate(trained)],
        regret=[
            _regret_entry(cost, [arms[i].name for i in windows], goodness(found, cost.metric)[:, windows], patients)
            for cost in costs
        ],
        rules=_rules(costs, [arms[i] for i in windows], scores),
        sensitivity=[SensitivityEntry(**each._asdict()) for each in sensitivity],
        worth=[
            Worth(score=w.score, metric=w.metric, windows=w.windows, rho=Interval.of(w.rho), p=_number(w.p))
            for w in told
        ],
        software=software(),
        provenance=joined([record.provenance for record in _records(trained) if record.provenance] or [provenance()]),
        **about,
    )


def _records(trained: Sequence[Trained]) -> list[ArmRecord]:
    """The records of all arms and seeds."""
    return [record for arm in trained for _, record in arm.seeds]


def _only(tables: dict[str, FloatArray], arms: Sequence[int]) -> dict[str, FloatArray]:
    """Tables [.., arms, seeds, ..] restricted to some arms."""
    return {name: table[:, list(arms)] for name, table in tables.items()}


def _arm_entry(
    trained: Trained, place: int, found: WeightedMetrics, sizes: Mapping[str, FloatArray], patients: int
) -> AblationArm:
    arm = trained.arm
    went = [record.training for _, record in trained.seeds if record.training]
    metrics, against_base, against_chosen = {}, {}, {}
    for name, values in found.arms.items():
        own = values[:, place]
        metrics[name] = Interval.of(mean_over_seeds(own, patients, sizes.get(name)))
        against_base[name] = Interval.of(mean_over_seeds(own - found.base[name][:, None], patients))
        against_chosen[name] = Interval.of(mean_over_seeds(own - values[:, 0], patients))
    return AblationArm(
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
    costs: Sequence[WindowRegret], windows: Sequence[PlannedArm], scores: Mapping[str, Mapping[int, float]]
) -> list[Rule]:
    """What each score, and chance, would have chosen among the windows; empty without other windows."""
    if not costs:
        return []
    entries = []
    for score, of_layer in scores.items():
        picked = picked_window(of_layer, [window.layers for window in windows], score)
        if picked is not None:
            regret = {cost.metric: Interval.of(cost.of_windows[picked]) for cost in costs}
            entries.append(Rule(score=score, arm=windows[picked].name, regret=regret))
    chance = {cost.metric: Interval.of(cost.of_chance) for cost in costs}
    return [*entries, Rule(score=CHANCE, arm=None, regret=chance)]


def _regret_entry(cost: WindowRegret, names: Sequence[str], good: FloatArray, patients: int) -> schema.Regret:
    return schema.Regret(
        metric=cost.metric,
        best=names[cost.best],
        optimistic=_number(cost.optimistic),
        regret=Interval.of(cost.regret),
        picked={name: _number(share) for name, share in zip(names, cost.picked.tolist(), strict=True)},
        ranks=[
            schema.Rank(arm=name, first=place.first, last=place.last)
            for name, place in zip(names, rank_windows(good, patients), strict=True)
        ],
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
