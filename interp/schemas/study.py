"""study.json, which `interp test-feature` writes: everything about one SAE feature."""

from pydantic import AliasChoices, Field

from interp.schemas.layers import CausalEntry, PromptEntry
from interp.schemas.record import Interval, Record
from interp.storage.provenance import Provenance


class Tracking(Record):
    """How the feature's delta f(p) - f(q) goes with the margin shift m(p) - m(q), over all pairs."""

    pairs: int = Field(description="number of (question, paraphrase) pairs of closed questions")
    flips: int = Field(description="number of pairs that flip")
    r: Interval = Field(description="Pearson correlation of delta and margin shift; null where delta never varies")
    flip_auc: Interval = Field(description="AUC of |delta| for flipped against other pairs; null without flips")
    largest: int = Field(description="number of flips in which no feature of the layer has a larger |delta|")


class FeatureTestEntry(CausalEntry):
    """The feature patch of the studied feature on all banked flips; its p value is not adjusted."""

    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index of the feature in the SAE")


class GroupRecovery(Record):
    """Recovery of the banked flips of one group."""

    grouping: str = Field(description="what the flips are grouped by: finding, phenomenon or registers")
    group: str = Field(description='name of the group; "other" or "untagged" where a wording has no finding or tag')
    pairs: int = Field(description="number of banked flips in the group")
    patients: int = Field(description="number of patients with such a flip")
    shift: float | None = Field(description="sum of |margin shift| over these flips [logits]: the group's weight")
    recovery: Interval = Field(
        description="recovered share of the margin shift; without an interval for fewer than five patients"
    )


class LevelMean(Record):
    """Activation at one level of the register grid."""

    level: int = Field(description="level of the frame; 0 is the most formal")
    prompts: int = Field(description="number of prompts: frames x findings x images")
    mean: Interval = Field(description="mean activation at the final token, zeros included [activation units]")


class Grid(Record):
    """What the feature does on the register grid, the same questions from formal to casual."""

    images: int = Field(description="number of images that the grid was asked on")
    findings: list[str] = Field(description="canonical names of the findings that the grid asks for")
    levels: list[LevelMean] = Field(min_length=2, description="one entry per level, from most formal to most casual")
    auc: Interval = Field(
        description="AUC of the activation, most formal against most casual level; above .5: more active when formal"
    )
    spearman: Interval = Field(
        description="rank correlation of level and activation; below 0: more active when formal; null if constant"
    )
    controlled_pairs: int = Field(
        description="number of pairs of different level, but same image and finding, that end in the same tokens"
    )
    controlled: Interval = Field(
        description="mean activation of the more formal wording minus that of the other, over these pairs"
    )


class Neighbour(Record):
    """A feature whose decoder row points in nearly the same direction."""

    feature: int = Field(description="index of the feature in the SAE")
    cosine: float = Field(description="cosine of the two decoder rows")


class Study(Record):
    """The whole content of study.json. It contains no question, path or patient."""

    schema_version: int = Field(default=2, description="version of this schema")
    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index of the feature in the SAE")
    d_sae: int = Field(description="number of features in the SAE")
    sae: str = Field(description="folder name of the SAE")
    neuronpedia: str | None = Field(description="address of the feature's page; null where there is none")
    model: str = Field(description="hub id of the model, or name of the local folder")
    revision: str | None = Field(description="commit of the hub repository; null for a local folder")
    fingerprint: str = Field(description="hash of the questions")
    questions: int = Field(description="number of closed questions with paraphrases")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    density: float = Field(
        validation_alias=AliasChoices("density", "firing_rate"),
        description="feature density: share of the wordings on which the feature is active",
    )
    direct_effect: float | None = Field(
        description="what one activation unit adds to the margin through the output layer alone [logits]"
    )
    margin_slope: float | None = Field(
        description="slope of the margin along the decoder row at the last layer, mean over wordings [logits per unit]"
    )
    notes: list[str] = Field(description="reasons why numbers are missing, one sentence each")
    seed: int = Field(description="seed of controls, grid images and intervals")
    prompt: PromptEntry = Field(default=PromptEntry(), description="what stood around the questions")
    tracking: Tracking = Field(description="delta against margin shift")
    test: FeatureTestEntry | None = Field(description="the feature patch on all banked flips; null without any")
    doses: list[float] = Field(description="multiples of the patch at which `test.dose` was measured")
    groups: list[GroupRecovery] = Field(description="recovery by finding, phenomenon and registers, largest first")
    grid: Grid = Field(description="the register grid")
    neighbours: list[Neighbour] = Field(description="features with the most similar decoder rows, nearest first")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )

    @property
    def name(self) -> str:
        """LAYER:FEATURE."""
        return f"{self.layer}:{self.feature}"
