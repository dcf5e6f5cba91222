"""comparison.json, which `interp compare` writes: what changed between two searches or two evaluations."""

from typing import Literal

from pydantic import Field

from interp.schemas.items import ItemKind
from interp.schemas.record import Interval, Record

Unit = Literal["%", "logits", "share"]


class Fact(Record):
    """One thing that is said of both, in words."""

    what: str = Field(description="what is compared")
    a: str = Field(description="how it is in A")
    b: str = Field(description="how it is in B")
    same: bool = Field(description="whether the two are equal")


class Change(Record):
    """One measure of A and of B, on their questions."""

    of: str = Field(description="what was measured: the search, or the arm of A and of B")
    measure: str = Field(description="name of the measure")
    unit: Unit = Field(description="unit in which it is shown: % of a share, logits, or a share as it is")
    n: int = Field(description="number of units in B: questions, pairs or wordings; 0 where not known")
    patients: int = Field(description="number of patients in B, or of images where patients are unknown")
    a: Interval = Field(description="the measure in A")
    b: Interval = Field(description="the measure in B")
    difference: Interval = Field(description="B - A, paired over patients; without an interval if it is not paired")
    p: float | None = Field(description="two-sided p of the paired permutation test; null if it is not paired")


class Moves(Record):
    """How many pairs of wordings flip in A and in B; only where the items of both were kept."""

    of: str = Field(description="as in `Change.of`")
    neither: int = Field(description="number of pairs that flip in neither")
    only_a: int = Field(description="number that flip in A only: repaired in B")
    only_b: int = Field(description="number that flip in B only: broken in B")
    both: int = Field(description="number that flip in both")


class FeatureChange(Record):
    """One feature that was tested in either search."""

    feature: str = Field(description="the feature, as LAYER:FEATURE")
    sae_a: str | None = Field(description="folder of the SAE in A; null if the feature was not tested there")
    sae_b: str | None = Field(description="folder of the SAE in B; null if the feature was not tested there")
    same_sae: bool | None = Field(description="whether both SAEs have one digest; null if one is not known")
    place_a: str | None = Field(description="what it has to do with the flips in A")
    place_b: str | None = Field(description="the same in B")
    recovery_a: Interval | None = Field(description="recovery by its patch in A; null if it was not tested there")
    recovery_b: Interval | None = Field(description="the same in B")


class LayerChange(Record):
    """One layer of the profile of both."""

    layer: int = Field(description="decoder layer")
    flip_auc_a: Interval | None = Field(description="flip AUC of the layer's features in A; null if not profiled")
    flip_auc_b: Interval | None = Field(description="the same in B")
    recovery_a: Interval | None = Field(description="recovery by the residual patch in A; null if not profiled")
    recovery_b: Interval | None = Field(description="the same in B")


class Comparison(Record):
    """The whole content of comparison.json. It contains no question, path or patient."""

    schema_version: int = Field(default=1, description="version of this schema")
    kind: ItemKind = Field(description="what is compared: two searches or two evaluations")
    a: str = Field(description="name of the first")
    b: str = Field(description="name of the second")
    same_questions: bool = Field(description="whether both were measured on the same questions")
    paired: bool = Field(description="whether the items of both were compared wording by wording")
    facts: list[Fact] = Field(description="verdicts, layers, models, SAEs and settings, equal or not")
    changes: list[Change] = Field(description="one entry per measure")
    moves: list[Moves] = Field(description="which pairs flip where; empty without items")
    features: list[FeatureChange] = Field(description="the features of two searches; empty for evaluations")
    profile: list[LayerChange] = Field(description="the layer profiles of two searches; empty for evaluations")
    notes: list[str] = Field(description="what limits the comparison, one sentence each")
    seed: int = Field(description="seed of the intervals and of the permutations")
    software: dict[str, str] = Field(description="package -> version")
