"""study.json."""

from typing import Any

from pydantic import Field, field_validator

from interp.schemas.layers import CausalEntry, Interval
from interp.schemas.read import Part
from interp.storage.provenance import Provenance


class Tracking(Part):
    """How a feature's change goes with the margin shift."""

    pairs: int = Field(description="pairs of closed questions")
    flips: int = Field(description="pairs that flip")
    r: Interval = Field(description="correlation of the two")
    flip_auc: Interval = Field(description="AUC of the size of the change for flips")
    largest: int = Field(description="flips in which no feature of the layer changes more")


class GroupRecovery(Part):
    """Recovery of the flips of one group."""

    grouping: str = Field(description="finding, phenomenon or registers")
    group: str = Field(description="its name")
    pairs: int = Field(description="its flips")
    patients: int = Field(description="their patients")
    shift: float | None = Field(description="sum of their margin shifts [logits]")
    recovery: Interval = Field(description="recovered share of it")


class LevelMean(Part):
    """Activation at one level of the register grid."""

    level: int = Field(description="0 is the most formal")
    prompts: int = Field(description="number of prompts at this level")
    mean: Interval = Field(description="mean activation")


class Grid(Part):
    """What a feature does on the register grid."""

    images: int = Field(description="images it was asked on")
    findings: list[str] = Field(description="findings asked for")
    levels: list[LevelMean] = Field(min_length=2, description="from most formal to most casual")
    auc: Interval = Field(description="AUC of the activation, most formal against most casual level")
    spearman: Interval = Field(description="rank correlation of level and activation")
    controlled_pairs: int = Field(description="pairs of wordings that end alike")
    controlled: Interval = Field(description="mean difference of these, the more formal less the other")


class Neighbour(Part):
    """A feature whose decoder row points the same way."""

    feature: int = Field(description="index into the SAE")
    cosine: float = Field(description="of the two rows")


class Study(Part):
    """study.json: one feature closely."""

    schema_version: int = Field(description="version of the schema")
    model: str = Field(description="the model")
    revision: str | None = Field(description="its commit")
    sae: str = Field(description="folder name of the SAE")
    neuronpedia: str | None = Field(default=None, description="address of the feature's page; null where it has none")
    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index into the SAE")
    fingerprint: str = Field(description="of the questions")
    questions: int = Field(description="closed questions with paraphrases")
    patients: int = Field(description="their patients")
    density: float = Field(description="share of the wordings on which it is active")
    direct_effect: float | None = Field(description="what a unit adds to the margin by the output layer [logits]")
    margin_slope: float | None = Field(description="slope of the margin along its decoder row [logits a unit]")
    notes: list[str] = Field(description="a sentence on every number that could not be had")
    seed: int = Field(description="of controls, grid images and intervals")
    tracking: Tracking = Field(description="its change against the margin shift")
    test: CausalEntry | None = Field(description="its delta patch; None without flips")
    doses: list[float] = Field(description="multiples of the patch")
    groups: list[GroupRecovery] = Field(description="recovery by group")
    grid: Grid = Field(description="the register grid")
    neighbours: list[Neighbour] = Field(description="nearest first")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")

    @property
    def name(self) -> str:
        """LAYER:FEATURE."""
        return f"{self.layer}:{self.feature}"

    @field_validator("test", mode="before")
    @classmethod
    def _as_searched(cls, test: Any) -> Any:
        """Without the layer and the feature, which stand beside it."""
        return {k: v for k, v in test.items() if k in CausalEntry.model_fields} if isinstance(test, dict) else test
