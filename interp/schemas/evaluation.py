"""evaluation.json and gatescope.json."""

from typing import Any

from pydantic import Field, model_validator

from interp.schemas.layers import Interval
from interp.schemas.read import Part
from interp.storage.provenance import Provenance


class Axis(Part):
    """What the intervals say of one measure of a verdict."""

    measure: str = Field(description="name of the measure")
    state: str = Field(description="better, kept, lost or unclear")


class Verdict(Part):
    """The verdict on one arm."""

    label: str = Field(description="improved, improved but less grounded, not improved, worse or not judged")
    sentence: str = Field(description="the label and what it rests on")
    axes: list[Axis] = Field(description="the measures that decided")


class Comparison(Part):
    """One measure in one group of questions, one arm against another."""

    kind: str = Field(description="kind of the group: all, type, finding, ...")
    subset: str = Field(description="name of the group")
    measure: str = Field(description="name of the measure")
    reference: str = Field(description="the arm compared with")
    arm: str = Field(description="the arm judged")
    n: int = Field(description="questions, pairs or wordings")
    before: Interval = Field(description="of the reference")
    after: Interval = Field(description="of the arm")
    difference: Interval = Field(description="arm - reference")
    p: float | None = Field(description="of the paired test, two-sided")


class Quadrants(Part):
    """Where one arm's questions stand."""

    arm: str = Field(description="name of the arm")
    reliance: str = Field(description="grey or any: which substitutes decide whether a question rests on the image")
    questions: int = Field(description="number of questions")
    shares: dict[str, Interval] = Field(description="quadrant -> share of the questions")
    moves: list[list[int]] = Field(description="[quadrants, quadrants] questions, from the base's to the arm's")
    p: float | None = Field(description="that the shares are those of the base")

    @model_validator(mode="after")
    def _square(self) -> "Quadrants":
        if {len(self.moves), *map(len, self.moves)} != {len(self.shares)}:
            raise ValueError(f"moves is not a square of the {len(self.shares)} quadrants")
        return self


class ReliabilityBin(Part):
    """One point of a reliability curve."""

    arm: str = Field(description="name of the arm")
    low: float = Field(description="least confidence in the bin")
    n: int = Field(description="wordings in the bin")
    confidence: float = Field(description="their mean confidence")
    accuracy: float = Field(description="share answered rightly")


class ClampControl(Part):
    """Other features clamped in place of the clamped ones."""

    features: list[str] = Field(description="LAYER:FEATURE of each")
    question_flip_rate: float | None = Field(description="share of closed questions with a flipped paraphrase")
    accuracy: float | None = Field(description="share of right answers")


class Evaluation(Part):
    """evaluation.json: base, adapters and clamps on the same questions."""

    schema_version: int = Field(description="version of the schema")
    verdicts: dict[str, Verdict] = Field(description="every arm and pool but the base -> verdict")
    tolerance: float = Field(description="loss that a verdict allows for, a share")
    arms: dict[str, list[dict[str, Any]]] = Field(description="arm -> features clamped in it; the first is the base")
    pools: dict[str, list[str]] = Field(description="pool -> arms that differ in their seed only")
    controls: dict[str, list[ClampControl]] = Field(description="arm with clamps -> their controls")
    collapsed: dict[str, str] = Field(default_factory=dict, description="arm that says one thing only -> a sentence")
    model: str = Field(description="the base model")
    questions: int = Field(description="number of questions")
    patients: int = Field(description="number of patients")
    data: str = Field(description="fingerprint of the questions")
    seed: int = Field(description="of intervals, tests and substitutes")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")
    quadrants: list[Quadrants] = Field(description="an entry an arm and kind of reliance")
    quadrant_order: list[str] = Field(description="names of the quadrants, best first")
    reliability: list[ReliabilityBin] = Field(description="the reliability curve of every arm")
    comparisons: list[Comparison] = Field(description="an entry a measure, group and couple of arms")

    @model_validator(mode="after")
    def _known(self) -> "Evaluation":
        if not self.arms:
            raise ValueError("arms is empty, and the first of them is the base")
        if unknown := [name for members in self.pools.values() for name in members if name not in self.arms]:
            raise ValueError(f"pools name {unknown[0]!r}, which is no arm")
        if any(set(found.shares) != set(self.quadrant_order) for found in self.quadrants):
            raise ValueError("quadrants are not those of quadrant_order")
        return self

    @property
    def base(self) -> str:
        """Name of the first arm."""
        return next(iter(self.arms))

    @property
    def shown(self) -> list[str]:
        """Arms and pools that stand beside the base: pools in place of their members."""
        pooled = {name for members in self.pools.values() for name in members}
        return [name for name in self.verdicts if name not in pooled]

    def against_base(self) -> dict[tuple[str, str, str, str], Comparison]:
        """Arm, measure, kind and name of the group -> its comparison with the base."""
        return {(c.arm, c.measure, c.kind, c.subset): c for c in self.comparisons if c.reference == self.base}
