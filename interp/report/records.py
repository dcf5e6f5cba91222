"""The JSON beside layers.json, as far as a report reads it: fields that are not named here are passed over."""

import math
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from interp.artifact import CausalEntry, Interval, ModelEntry, PromptEntry
from interp.documents import NEWEST, read_object, refuse_newer
from interp.errors import InputError
from interp.figures.ablation import METRICS
from interp.provenance import Provenance


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _undefined_is_null(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value


class Axis(_Part):
    """What the intervals say of one measure of a verdict."""

    measure: str = Field(description="name of the measure")
    state: str = Field(description="better, kept, lost or unclear")


class Verdict(_Part):
    """The verdict on one arm."""

    label: str = Field(description="improved, improved but less grounded, not improved, worse or not judged")
    sentence: str = Field(description="the label and what it rests on")
    axes: list[Axis] = Field(description="the measures that decided")


class Comparison(_Part):
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


class Quadrants(_Part):
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


class ReliabilityBin(_Part):
    """One point of a reliability curve."""

    arm: str = Field(description="name of the arm")
    low: float = Field(description="least confidence in the bin")
    n: int = Field(description="wordings in the bin")
    confidence: float = Field(description="their mean confidence")
    accuracy: float = Field(description="share answered rightly")


class ClampControl(_Part):
    """Other features clamped in place of the clamped ones."""

    features: list[str] = Field(description="LAYER:FEATURE of each")
    question_flip_rate: float | None = Field(description="share of closed questions with a flipped paraphrase")
    accuracy: float | None = Field(description="share of right answers")


class Evaluation(_Part):
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


class AdapterRecord(_Part):
    """gatescope.json: where an adapter comes from."""

    schema_version: int = Field(description="version of the schema")
    model: ModelEntry = Field(description="the frozen base")
    prompt: PromptEntry = Field(default=PromptEntry(), description="how the questions were put")
    layers: list[int] = Field(description="layers trained")
    layers_from: str = Field(description="what named them")
    settings: dict[str, Any] = Field(description="of the training")
    data: str = Field(description="fingerprint of the training questions")
    questions: int = Field(description="training questions")
    paraphrases: int = Field(description="their paraphrases")
    patients: int = Field(description="their patients")
    steps: int = Field(description="optimizer steps")
    first_loss: float | None = Field(description="mean over the first tenth of the steps")
    last_loss: float | None = Field(description="mean over the last tenth of the steps")
    trainable_parameters: int = Field(description="parameters of the adapter")
    seconds: float = Field(description="duration of the training")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")


class AblationArm(_Part):
    """One arm of an ablation, pooled over its seeds."""

    name: str = Field(description="as tables call it")
    kind: str = Field(description="chosen, window, third, random, ...")
    layers: list[int] = Field(description="layers trained")
    rank: int = Field(description="of every update, or of the uniform adapter with as many parameters")
    ranks: dict[str, int] | None = Field(default=None, description="rank by layer and module, where it differs")
    parameters: int = Field(description="of the adapter")
    metrics: dict[str, Interval] = Field(description="metric -> value")


class Rank(_Part):
    """The place of one window among the windows."""

    arm: str = Field(description="name of its arm")
    first: int = Field(description="best place that it may have")
    last: int = Field(description="worst place that it may have")


class Regret(_Part):
    """What the choice of the range cost in one metric."""

    metric: str = Field(description="the metric")
    best: str = Field(description="arm of the best window")
    optimistic: float | None = Field(description="how much better it looks")
    regret: Interval = Field(description="how much better the best are on other patients and seeds")
    ranks: list[Rank] = Field(description="the place of every window")


class Worth(_Part):
    """How far a score of the profile tells a metric of the windows."""

    score: str = Field(description="of the profile")
    metric: str = Field(description="of the windows")
    windows: int = Field(description="number of windows")
    rho: Interval = Field(description="rank correlation")
    p: float | None = Field(description="layers permuted")


class Rule(_Part):
    """What would have come of taking the window of the highest score."""

    score: str = Field(description="of a layer; depth takes the earliest window, chance any")
    arm: str | None = Field(description="the window that it takes; None for chance")
    regret: dict[str, Interval] = Field(description="metric -> regret of that window")


class AblationData(_Part):
    """The questions of an ablation."""

    asked: str = Field(description="fingerprint of the questions asked")
    questions: int = Field(description="their number")
    patients: int = Field(description="their patients")


class Ablation(_Part):
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


class GroundingSummary(_Part):
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


class GroundingDifference(_Part):
    """How much larger a net is with the adapter."""

    map: str = Field(description="name of the map, or model")
    score: str = Field(description="name of the score")
    against: str = Field(description="the control")
    difference: Interval = Field(description="adapter - base, of the net")
    p: float | None = Field(description="that it is zero")


class CurvePoint(_Part):
    """One point of a mean deletion or insertion curve."""

    arm: str = Field(description="base or adapter")
    map: str = Field(description="name of the map, or random")
    kind: str = Field(description="deletion or insertion")
    share: float = Field(description="of the cells gone or come")
    margin: float | None = Field(description="of the model's own answer [logits]")
    probability: float | None = Field(description="of that answer among yes and no")


class Grounding(_Part):
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


class Tracking(_Part):
    """How a feature's change goes with the margin shift."""

    pairs: int = Field(description="pairs of closed questions")
    flips: int = Field(description="pairs that flip")
    r: Interval = Field(description="correlation of the two")
    flip_auc: Interval = Field(description="AUC of the size of the change for flips")
    largest: int = Field(description="flips in which no feature of the layer changes more")


class GroupRecovery(_Part):
    """Recovery of the flips of one group."""

    grouping: str = Field(description="finding, phenomenon or registers")
    group: str = Field(description="its name")
    pairs: int = Field(description="its flips")
    patients: int = Field(description="their patients")
    shift: float | None = Field(description="sum of their margin shifts [logits]")
    recovery: Interval = Field(description="recovered share of it")


class LevelMean(_Part):
    """Activation at one level of the register grid."""

    level: int = Field(description="0 is the most formal")
    mean: Interval = Field(description="mean activation")


class Grid(_Part):
    """What a feature does on the register grid."""

    images: int = Field(description="images it was asked on")
    findings: list[str] = Field(description="findings asked for")
    levels: list[LevelMean] = Field(min_length=2, description="from most formal to most casual")
    spearman: Interval = Field(description="rank correlation of level and activation")
    controlled_pairs: int = Field(description="pairs of wordings that end alike")
    controlled: Interval = Field(description="mean difference of these, the more formal less the other")


class Neighbour(_Part):
    """A feature whose decoder row points the same way."""

    feature: int = Field(description="index into the SAE")
    cosine: float = Field(description="of the two rows")


class Study(_Part):
    """study.json: one feature closely."""

    schema_version: int = Field(description="version of the schema")
    model: str = Field(description="the model")
    revision: str | None = Field(description="its commit")
    sae: str = Field(description="folder name of the SAE")
    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index into the SAE")
    fingerprint: str = Field(description="of the questions")
    questions: int = Field(description="closed questions with paraphrases")
    patients: int = Field(description="their patients")
    firing_rate: float = Field(description="share of the wordings on which it is active")
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


Record = TypeVar("Record", Evaluation, AdapterRecord, Ablation, Grounding, Study)


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read one of these files, its texts `cleaned`.

    Raises InputError, naming file and field, for a file that is damaged, lacks a field, or is of a newer schema.
    """
    content = cleaned(read_object(path))
    version = content.get("schema_version")
    if isinstance(version, int):
        refuse_newer(path, version, NEWEST[path.name])
    return checked(path, kind, content)


Model = TypeVar("Model", bound=BaseModel)


def checked(path: Path, kind: type[Model], content: Any) -> Model:
    """`content`, read from `path`, as a record. Raises InputError naming the first field that is not as expected."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: field {field}: {reason}. Write it again, or remove it.") from None


def cleaned(content: Any) -> Any:
    """JSON content whose texts are fit to be shown: no control characters, and of a path its last part alone.

    Artifacts hold no paths; a model that was loaded in another way might be named by one.
    """
    if isinstance(content, str):
        return _clean(content)
    if isinstance(content, dict):
        return {_clean(key): cleaned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [cleaned(value) for value in content]
    return content


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[/\\]|~[/\\]|\.{1,2}[/\\]|[/\\])[^\s\"'<>]*[/\\]")


def _clean(text: str) -> str:
    return _CONTROL.sub("\ufffd", _PATH.sub("", text))
