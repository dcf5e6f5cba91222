"""grounding.json."""

from typing import Any

from pydantic import Field

from interp.schemas.layers import Interval
from interp.schemas.read import Part
from interp.storage.provenance import Provenance


class GroundingSummary(Part):
    """One score of one map in one arm, against one control."""

    arm: str = Field(description="base or adapter")
    map: str = Field(description="name of the map, or model")
    score: str = Field(description="name of the score")
    against: str = Field(description="the control")
    n: int = Field(description="questions")
    value: Interval = Field(description="mean of the score")
    control: Interval = Field(description="mean of the control")
    net: Interval = Field(description="score - control")
    p: float | None = Field(description="that the net is zero")


class GroundingDifference(Part):
    """How much larger a net is with the adapter."""

    map: str = Field(description="name of the map, or model")
    score: str = Field(description="name of the score")
    against: str = Field(description="the control")
    difference: Interval = Field(description="adapter - base, of the net")
    p: float | None = Field(description="that it is zero")


class CurvePoint(Part):
    """One point of a mean deletion or insertion curve."""

    arm: str = Field(description="base or adapter")
    map: str = Field(description="name of the map, or random")
    kind: str = Field(description="deletion or insertion")
    share: float = Field(description="of the cells gone or come")
    margin: float | None = Field(description="of the model's own answer [logits]")
    probability: float | None = Field(description="of that answer among yes and no")


class Grounding(Part):
    """grounding.json: where the model looks, and whether the maps are faithful."""

    schema_version: int = Field(description="version of the schema")
    model: str = Field(description="the base model")
    arms: list[str] = Field(min_length=1, description="base, and adapter if there is one")
    feature: str | None = Field(default=None, description="LAYER:FEATURE whose map was asked for")
    data: str = Field(description="fingerprint of the questions")
    questions: int = Field(description="questions studied")
    patients: int = Field(description="their patients")
    right: dict[str, float | None] = Field(description="arm -> share answered truly")
    summary: list[GroundingSummary] = Field(description="means over the questions")
    differences: list[GroundingDifference] = Field(description="adapter - base")
    curves: list[CurvePoint] = Field(description="mean deletion and insertion")
    settings: dict[str, Any] = Field(description="of the study")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")
