"""ablation.json, which `finetune ablate` writes, and the record inside each file of an arm's answers."""

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from interp.schemas.layers import ModelEntry, PromptEntry
from interp.schemas.record import Interval, Record
from interp.storage.provenance import Provenance

Module = Literal["attention", "mlp"]
"""Part of a decoder layer that adds to the residual stream."""
CHANCE = "chance"
"""Name of the score that takes a window at random."""
METRICS = (
    "question_flip_rate",
    "margin_difference",
    "accuracy",
    "first_token_accuracy",
    "text_only_agreement",
    "combined",
)
"""Metrics that every arm must have, because the report and the figure show them."""


class ArmTraining(Record):
    """How the training of one arm with one seed went."""

    model_config = ConfigDict(extra="forbid")
    parameters: int = Field(description="number of parameters of the adapter")
    steps: int = Field(description="number of optimizer steps")
    cross_entropy: float = Field(
        description="cross-entropy of the answers, mean over the last tenth of the steps [nats]"
    )
    divergence: float = Field(description="symmetric KL of the wordings, mean over the last tenth of the steps [nats]")
    seconds: float = Field(description="duration of the training [s]")


class ArmRecord(Record):
    """Where the answers in one Parquet file come from. It contains no question, path or patient."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=1, description="version of this schema")
    kind: str = Field(description="base, or why the arm was trained (finetune.ablation.plan.ArmKind)")
    layers: list[int] = Field(description="layers that were trained; empty for the base")
    match: dict[str, Any] = Field(description="inputs that must be the same for the answers to be reused")
    training: ArmTraining | None = Field(description="how the training went; null for the base")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )


class AblationArm(Record):
    """One arm, pooled over its training seeds."""

    name: str = Field(description="name of the arm, as tables print it")
    kind: str = Field(description="why the arm is there (finetune.ablation.plan.ArmKind)")
    layers: list[int] = Field(description="layers that were trained")
    rank: int = Field(description="rank of every update")
    ranks: dict[str, int] | None = Field(
        default=None, description="rank by layer and module, such as 4.mlp, in files of earlier versions only"
    )
    alpha: int = Field(description="LoRA alpha; every update is scaled by alpha / rank")
    consistency_weight: float = Field(description="weight of the consistency loss")
    answer_weight: float = Field(description="weight of the cross-entropy of the answers")
    parameters: int = Field(description="number of parameters of the adapter")
    cross_entropy: list[float] = Field(description="[seeds] mean over the last tenth of each training's steps [nats]")
    divergence: list[float] = Field(description="[seeds] symmetric KL, mean over the last tenth of the steps [nats]")
    seconds: list[float] = Field(description="[seeds] duration of each training [s]")
    metrics: dict[str, Interval] = Field(description="metric -> its value in the arm")
    against_base: dict[str, Interval] = Field(description="metric -> arm - base, paired")
    against_chosen: dict[str, Interval] = Field(description="metric -> arm - chosen range, paired")


class Rank(Record):
    """The place of one window among the windows, 1 being best; a range where windows are tied."""

    arm: str = Field(description="name of the window's arm")
    first: int = Field(description="1 + the number of windows shown to be better")
    last: int = Field(description="number of windows minus the number shown to be worse")


class Regret(Record):
    """What the choice of the range cost in one metric (finetune.ablation.regret)."""

    metric: str = Field(description="name of the metric")
    best: str = Field(description="name of the arm whose window is best on all the data")
    optimistic: float | None = Field(
        description="how much better that window is on the same data; above zero by luck alone"
    )
    regret: Interval = Field(
        description="how much better the windows are that were best on other patients and other seeds"
    )
    picked: dict[str, float | None] = Field(description="arm -> share of the splits in which its window was best")
    ranks: list[Rank] = Field(description="the place of every window")


class Worth(Record):
    """How well a score of the layer profile predicts a metric of the windows (finetune.ablation.profile_validity)."""

    score: str = Field(description="name of the score; a window's score is the mean over its layers")
    metric: str = Field(description="name of the windows' metric")
    windows: int = Field(description="number of windows")
    rho: Interval = Field(description="Spearman correlation; positive if windows of higher score are better")
    p: float | None = Field(description="two-sided p value of rho, scores of layers permuted")


class Rule(Record):
    """What it would have cost to train the window of the highest score instead of the chosen range."""

    score: str = Field(description="name of the score; depth takes the earliest window, chance the mean of all")
    arm: str | None = Field(description="name of the arm of the window taken; null for chance")
    regret: dict[str, Interval] = Field(description="metric -> regret of that window (finetune.ablation.regret)")


class SensitivityEntry(Record):
    """How steep the loss is in a fresh adapter of one module of one layer (finetune.training.sensitivity)."""

    layer: int = Field(description="decoder layer")
    module: Module = Field(description="module of the layer: attention or mlp")
    gradient: float = Field(description="norm of the gradient of the mean loss")
    fisher: float = Field(description="mean over questions of the squared norm of the gradient")


class AblationData(Record):
    """The questions of an ablation. It contains no text, path or patient."""

    trained_on: str = Field(description="hash of the training questions")
    training_questions: int = Field(description="number of training questions")
    asked: str = Field(description="hash of the held-out questions that every arm answered")
    questions: int = Field(description="number of held-out questions")
    patients: int = Field(description="number of their patients, or of images where patients are unknown")


class Ablation(Record):
    """The whole content of ablation.json: the same adapter trained in other layers. No question, path or patient."""

    schema_version: int = Field(default=1, description="version of this schema")
    conclusion: list[str] = Field(description="what the ablation comes to, one sentence each")
    chosen: list[int] = Field(description="layers of the chosen range")
    layers_from: str = Field(description="what chose them: a file with its verdict and rule, or the command")
    model: ModelEntry = Field(description="the frozen base model")
    base_weights: str = Field(description="hash of the base model's weights")
    prompt: PromptEntry = Field(default=PromptEntry(), description="what stood around the questions")
    data: AblationData = Field(description="the questions")
    settings: dict[str, Any] = Field(description="settings of the ablation, with those of the training inside")
    combined: str = Field(
        default="accuracy - question_flip_rate - max(0, text_only_agreement - text_only_agreement of the base)",
        description="definition of the combined score",
    )
    base: dict[str, Interval] = Field(description="metric -> its value in the base")
    arms: list[AblationArm] = Field(min_length=1, description="every arm, the chosen range first")
    regret: list[Regret] = Field(description="one entry per metric; empty if no other window was trained")
    worth: list[Worth] = Field(description="one entry per score of the profile and metric")
    rules: list[Rule] = Field(default_factory=list, description="one entry per score: what it would have chosen")
    sensitivity: list[SensitivityEntry] = Field(
        default_factory=list, description="gradient of the loss by layer and module before any training"
    )
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )

    @model_validator(mode="after")
    def _has_metrics(self) -> "Ablation":
        for metrics in (self.base, *(arm.metrics for arm in self.arms)):
            if missing := [name for name in METRICS if name not in metrics]:
                raise ValueError(f"metrics have no {missing[0]}")
        return self
