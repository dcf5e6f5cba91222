"""grounding.json, which `finetune grounding` writes: where the model looks, and whether maps show it faithfully."""

from typing import Any

from pydantic import Field

from interp.schemas.record import Interval, Record
from interp.storage.provenance import Provenance


class GroundingSummary(Record):
    """One score of one map in one arm, beside one control, over the questions that have both."""

    arm: str = Field(description="base or adapter")
    map: str = Field(description='name of the map; "model" where the score judges the model and not a map')
    score: str = Field(description="name of the score (finetune.grounding.score_table.GROUNDING_SCORES)")
    against: str = Field(description="name of the control")
    n: int = Field(description="number of questions")
    patients: int = Field(description="number of their patients, or of images where patients are unknown")
    value: Interval = Field(description="mean of the score")
    control: Interval = Field(description="mean of the control")
    net: Interval = Field(description="mean of score - control")
    p: float | None = Field(
        description="two-sided p value that the net is zero, signs flipped by patient; not adjusted"
    )


class GroundingDifference(Record):
    """How much larger the net of one score is with the adapter than without it, on the same questions."""

    map: str = Field(description='name of the map; "model" where the score judges the model and not a map')
    score: str = Field(description="name of the score (finetune.grounding.score_table.GROUNDING_SCORES)")
    against: str = Field(description="name of the control")
    n: int = Field(description="number of questions with the net in both arms")
    patients: int = Field(description="number of their patients, or of images where patients are unknown")
    difference: Interval = Field(description="mean over questions of the net, adapter - base")
    p: float | None = Field(
        description="two-sided p value that the difference is zero, signs flipped by patient; not adjusted"
    )


class CurvePoint(Record):
    """One point of a mean deletion or insertion curve."""

    arm: str = Field(description="base or adapter")
    map: str = Field(description='name of the map that orders the cells; "random" for a random order')
    kind: str = Field(description="deletion or insertion")
    share: float = Field(description="share of the image's cells that were deleted or inserted")
    margin: float | None = Field(description="mean margin of the model's own answer [logits]")
    probability: float | None = Field(description="mean probability of that answer among yes and no")


class Grounding(Record):
    """The whole content of grounding.json. It contains no question, path or patient."""

    schema_version: int = Field(default=1, description="version of this schema")
    model: str = Field(description="hub id of the base model, or name of the local folder")
    arms: list[str] = Field(min_length=1, description="base, and adapter if there is one")
    feature: str | None = Field(default=None, description="feature with a map of its own, as LAYER:FEATURE of SAE")
    data: str = Field(description="hash of the questions")
    questions: int = Field(description="number of questions studied")
    patients: int = Field(description="number of their patients, or of images where patients are unknown")
    right: dict[str, float | None] = Field(
        description="arm -> share of right answers, of the questions with a known answer"
    )
    summary: list[GroundingSummary] = Field(description="means over the questions, beside their controls")
    differences: list[GroundingDifference] = Field(description="adapter - base; empty without an adapter")
    curves: list[CurvePoint] = Field(description="points of the mean deletion and insertion curves")
    settings: dict[str, Any] = Field(description="settings of the study (finetune.grounding.settings)")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )
