"""ablation.json."""

from typing import Any

from pydantic import Field, model_validator

from interp.schemas.layers import Interval, ModelEntry
from interp.schemas.read import Part
from interp.storage.provenance import Provenance

METRICS = (
    "question_flip_rate",
    "margin_difference",
    "accuracy",
    "first_token_accuracy",
    "text_only_agreement",
    "combined",
)
"""Metrics that every arm must have, since the report and the figure show them."""


class AblationArm(Part):
    """One arm of an ablation, pooled over its seeds."""

    name: str = Field(description="as tables call it")
    kind: str = Field(description="chosen, window, third, random, ...")
    layers: list[int] = Field(description="layers trained")
    rank: int = Field(description="of every update, or of the uniform adapter with as many parameters")
    ranks: dict[str, int] | None = Field(default=None, description="rank by layer and module, where it differs")
    parameters: int = Field(description="of the adapter")
    metrics: dict[str, Interval] = Field(description="metric -> value")


class Rank(Part):
    """The place of one window among the windows."""

    arm: str = Field(description="name of its arm")
    first: int = Field(description="best place that it may have")
    last: int = Field(description="worst place that it may have")


class Regret(Part):
    """What the choice of the range cost in one metric."""

    metric: str = Field(description="the metric")
    best: str = Field(description="arm of the best window")
    optimistic: float | None = Field(description="how much better it looks")
    regret: Interval = Field(description="how much better the best are on other patients and seeds")
    ranks: list[Rank] = Field(description="the place of every window")


class Worth(Part):
    """How far a score of the profile tells a metric of the windows."""

    score: str = Field(description="of the profile")
    metric: str = Field(description="of the windows")
    windows: int = Field(description="number of windows")
    rho: Interval = Field(description="rank correlation")
    p: float | None = Field(description="layers permuted")


class Rule(Part):
    """What would have come of taking the window of the highest score."""

    score: str = Field(description="of a layer; depth takes the earliest window, chance any")
    arm: str | None = Field(description="the window that it takes; None for chance")
    regret: dict[str, Interval] = Field(description="metric -> regret of that window")


class AblationData(Part):
    """The questions of an ablation."""

    asked: str = Field(description="fingerprint of the questions asked")
    questions: int = Field(description="their number")
    patients: int = Field(description="their patients")


class Ablation(Part):
    """ablation.json: the same adapter trained elsewhere."""

    schema_version: int = Field(description="version of the schema")
    conclusion: list[str] = Field(description="what it comes to, a sentence each")
    chosen: list[int] = Field(description="the chosen range")
    model: ModelEntry = Field(description="the frozen base")
    data: AblationData = Field(description="the questions")
    settings: dict[str, Any] = Field(description="of the ablation, those of the training inside")
    combined: str = Field(description="definition of the combined score")
    base: dict[str, Interval] = Field(description="every metric of the base")
    arms: list[AblationArm] = Field(min_length=1, description="every arm, the chosen range first")
    regret: list[Regret] = Field(description="one entry a metric")
    worth: list[Worth] = Field(description="one entry a score and metric")
    rules: list[Rule] = Field(default_factory=list, description="what each score would have chosen")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")

    @model_validator(mode="after")
    def _drawn(self) -> "Ablation":
        for metrics in (self.base, *(arm.metrics for arm in self.arms)):
            if missing := [name for name in METRICS if name not in metrics]:
                raise ValueError(f"metrics have no {missing[0]}")
        return self
