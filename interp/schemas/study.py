"""study.json, which `interp test-feature` writes: everything about one SAE feature."""

from typing import Literal

from pydantic import AliasChoices, Field

from interp.schemas.feature_content import FeatureContent
from interp.schemas.layers import PromptEntry
from interp.schemas.record import Interval, Record
from interp.schemas.tested_features import CausalEntry, Place
from interp.schemas.vector_patch import VectorPatchEntry
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


class LayerWrite(Record):
    """What one layer adds to the final token, exchanged and read by the output layer alone, on all banked flips."""

    layer: int = Field(description="decoder layer")
    net_write: Interval = Field(
        description="recovery by the direct-effect patch of what the layer adds, minus that of random directions"
    )


class LayerFallEntry(Record):
    """What one layer above the feature makes of its change (interp.causal.mediation)."""

    layer: int = Field(description="the layer that reads the patch's vector")
    effect: Interval = Field(description="recovery by the vector added after this layer, which then cannot read it")
    fall: Interval = Field(description="effect after the layer below minus `effect`; all falls add up to `mediated`")
    net_fall: Interval = Field(description="fall minus that of random directions of the same norm")
    p: float | None = Field(
        description="p of net_fall, sign-flip test over patients, Benjamini-Hochberg adjusted over the layers"
    )


class ResidualParts(Record):
    """The change of the whole residual at the feature's layer, split by the SAE (interp.causal.sae_error)."""

    whole: VectorPatchEntry = Field(description="patch of the whole change, the most that any feature can recover")
    features: VectorPatchEntry = Field(description="patch of what all features of the SAE reconstruct of it")
    error: VectorPatchEntry = Field(description="patch of the rest, the SAE error")
    error_share: float | None = Field(description="squared norm of the error as a share of that of the whole change")


Kinship = Literal["duplicate", "split", "companion", "opposite"]
"""duplicate: like direction, active on the same wordings. split: like direction, active on others. companion: other
direction, the deltas go together. opposite: the same with the other sign."""


class Relative(Record):
    """A feature of the same SAE that goes with the studied one (interp.screening.families)."""

    feature: int = Field(description="index of the feature in the SAE")
    kinship: Kinship = Field(description="how it is related: duplicate, split, companion or opposite")
    cosine: float = Field(description="cosine of the two decoder rows")
    r: float = Field(description="correlation of the two deltas over all pairs")
    overlap: float = Field(description="wordings on which both are active, as a share of those on which either is")


class EdgeEntry(Record):
    """The effect of one feature on another at the final token, on all banked flips (interp.causal.edges)."""

    source_layer: int = Field(description="layer of the feature whose change is undone")
    source_feature: int = Field(description="its index in the SAE of that layer")
    target_layer: int = Field(description="layer of the feature that is read")
    target_feature: int = Field(description="its index in the SAE of that layer")
    predicted: float | None = Field(
        description="`undone` as the gradient predicts it; null for later features, which need no prediction"
    )
    undone: Interval = Field(description="share of the target's change that goes back with the source's")


TokenKind = Literal["image", "wording", "template"]
"""image: the image's tokens. wording: those in which wordings differ. template: all others."""


class TokenEdgeEntry(Record):
    """What attention brings to the final token from one kind of tokens, as a source of the feature's change."""

    layer: int = Field(description="the layer whose attention brings it")
    tokens: TokenKind = Field(
        description="the tokens it comes from: image, wording or template (interp.causal.token_edges)"
    )
    undone: Interval = Field(description="share of the feature's change that goes back when it is exchanged")


class Clamped(Record):
    """What holding the feature at zero at the final token of every prompt does."""

    flip_rate_before: Interval = Field(description="share of questions with at least one flip, without the clamp")
    flip_rate_after: Interval = Field(description="the same with the clamp")
    flip_rate_change: Interval = Field(description="after - before, paired over questions")
    accuracy_change: Interval = Field(
        description="share of right answers over all wordings, after - before; null where no answers are known"
    )


class PairEffects(Record):
    """The feature patch pair by pair, by PSF-Med's definitions (arXiv 2602.21428)."""

    recovery: Interval = Field(description="mean over the banked flips of the share of their margin shift recovered")
    cohens_d: float | None = Field(description="Cohen's d of these shares against zero: mean / standard deviation")
    above_half: int = Field(description="number of banked flips of which more than half of the shift is recovered")
    unflipped_change: Interval = Field(description="mean |change of the margin| on pairs that do not flip [logits]")


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
    place: Place | None = Field(
        default=None,
        description="what it has to do with the flips (interp.profile.places); null with too few flips, and in files "
        "of older versions",
    )
    writes: list[LayerWrite] = Field(default_factory=list, description="direct effect of every layer, lowest first")
    writing_layers: list[int] = Field(
        default_factory=list, description="layers whose own addition moves the answer, by which `place` is decided"
    )
    mediation: list[LayerFallEntry] = Field(
        default_factory=list, description="what each layer above the feature makes of its change, lowest first"
    )
    mediating_layers: list[int] = Field(
        default_factory=list, description="layers through which the feature acts (interp.profile.places)"
    )
    parts: ResidualParts | None = Field(default=None, description="what the SAE leaves out; null without banked flips")
    family: list[Relative] = Field(default_factory=list, description="features that go with it, most first")
    family_patch: VectorPatchEntry | None = Field(
        default=None, description="joint patch of the feature and its family; null without a family or banked flips"
    )
    family_place: Place | None = Field(
        default=None, description="`place` of the feature and its family as one; null where family_patch or place is"
    )
    edges: list[EdgeEntry] = Field(
        default_factory=list, description="features before and after it; empty unless asked for with --edges"
    )
    token_edges: list[TokenEdgeEntry] = Field(
        default_factory=list, description="earlier tokens from which its change comes; empty as `edges` is"
    )
    clamp: Clamped | None = Field(
        default=None, description="what holding it at zero does; null in files of older versions"
    )
    doses: list[float] = Field(description="multiples of the patch at which `test.dose` was measured")
    pair_effects: PairEffects | None = Field(
        default=None, description="the same patch by PSF-Med's definitions; null without banked flips, in older files"
    )
    groups: list[GroupRecovery] = Field(description="recovery by finding, phenomenon and registers, largest first")
    grid: Grid = Field(description="the register grid")
    neighbours: list[Neighbour] = Field(description="features with the most similar decoder rows, nearest first")
    content: FeatureContent | None = Field(
        default=None, description="what the feature stands for; null in files of older versions"
    )
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )

    @property
    def name(self) -> str:
        """LAYER:FEATURE."""
        return f"{self.layer}:{self.feature}"
