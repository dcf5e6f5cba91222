"""The features and families in layers.json that a search tested, and the names and least values of their places."""

from typing import Literal

from pydantic import Field

from interp.schemas.layers_part import LayersPart
from interp.schemas.neuronpedia import NearestPage
from interp.schemas.record import Interval
from interp.schemas.vector_patch import VectorPatchEntry

Place = Literal["cause", "mediator", "contributor", "echo", "bystander"]
"""What a tested feature has to do with the flips (interp.profile.places)."""
MEDIATED = 0.4
"""Least net mediated recovery of a cause or mediator. In 89 models without a gate, one single feature
exceeds it (0.44)."""
FAMILY_MEDIATED = 0.6
"""The same for a family of features. In 89 models without a gate, two exceed it (0.62 and 0.80)."""
DOSES = (0.5, 1.0, 2.0, 4.0)
"""Multiples of the feature patch in `CausalEntry.dose`; 1 is the patch itself."""


class CausalEntry(LayersPart):
    """The feature patch of one feature on held-out flips, with its controls (interp.causal.feature_patching)."""

    n: int = Field(description="number of flips patched")
    recovery: Interval = Field(description="recovered share of the margin shift")
    random: float | None = Field(description="mean recovery by random directions of the same norm")
    matched: float | None = Field(
        description="mean recovery by matched controls: features that move as much but do not discriminate flips"
    )
    swapped: float | None = Field(description="recovery with the feature's delta taken from another pair")
    net: Interval = Field(description="recovery - random")
    direct: Interval | None = Field(
        default=None, description="recovery by the same vector added to the last layer's output, read by no layer"
    )
    mediated: Interval | None = Field(
        default=None, description="recovery - direct: what the layers above the feature make of its change"
    )
    random_mediated: float | None = Field(default=None, description="mean of the same for random directions")
    net_mediated: Interval | None = Field(default=None, description="mediated - random_mediated")
    p_mediated: float | None = Field(
        default=None, description="p of net_mediated, tested and adjusted in the same way as p"
    )
    p: float | None = Field(
        description="p of net, sign-flip test over patients, Benjamini-Hochberg adjusted over the features tested"
    )
    p_random: float | None = Field(
        description="(1 + count) / (1 + n), where count of the n random directions recover at least as much"
    )
    reversals: int = Field(description="number of flips whose original answer the patch restores")
    random_reversals: float | None = Field(description="mean number that random directions restore")
    unflipped_changed: float | None = Field(
        description="side effect: share of unflipped pairs whose answer the patch changes"
    )
    dose: list[float] = Field(description="recovery at 0.5, 1, 2 and 4 times the patch")


class FeatureEntry(LayersPart):
    """One feature that was tested. Causes come first, and features of one place by net mediated recovery."""

    layer: int = Field(description="decoder layer")
    feature: int = Field(description="index of the feature in the SAE")
    flip_auc: float | None = Field(description="AUC of |delta| for flipped against other pairs, selection half")
    flip_p: float | None = Field(description="p of flip_auc over patients, Benjamini-Hochberg adjusted")
    held_out_auc: float | None = Field(description="the same AUC on the held-out half")
    delta_on_flips: float | None = Field(description="mean |delta| over flipped pairs [activation units]")
    delta_otherwise: float | None = Field(description="mean |delta| over the other pairs [activation units]")
    margin_r: float | None = Field(description="Pearson correlation of delta with the margin shift")
    density: float | None = Field(description="feature density: share of prompts on which the feature is active")
    mean_activation: float | None = Field(description="mean activation where active [activation units]")
    register_auc: float | None = Field(
        description="AUC of the activation for formal against casual wordings; above .5: more active on formal ones"
    )
    attribution: float | None = Field(default=None, description="recovery predicted by the gradient, selection half")
    path_attribution: float | None = Field(
        default=None,
        description="the same with the mean gradient on the path to the original's residual, by which it was chosen",
    )
    place: Place | None = Field(
        default=None, description="what it has to do with the flips (interp.profile.places); null if untested"
    )
    causal: CausalEntry | None = Field(default=None, description="its patch on held-out flips; null if untested")
    nearest_page: NearestPage | None = Field(
        default=None,
        description="page of the most similar feature, where its own SAE has no pages and another of the search has",
    )


class FamilyEntry(LayersPart, VectorPatchEntry):
    """The joint patch of a feature and its relatives on held-out flips (interp.screening.families).

    One family of every layer below the last that writes is tested: that for which attribution predicts most.
    """

    layer: int = Field(description="decoder layer")
    features: list[int] = Field(
        description="indices in the SAE: the feature whose family it is, then its relatives, which were found without "
        "any margin"
    )
    path_attribution: float | None = Field(
        description="sum of the path attributions of the features, selection half, by which the family was chosen"
    )
    place: Place = Field(description="what the family has to do with the flips, as one (interp.profile.places)")
    p: float | None = Field(
        description="p of net, sign-flip test over patients, Benjamini-Hochberg adjusted over the families tested"
    )
    p_mediated: float | None = Field(description="p of net_mediated, tested and adjusted in the same way as p")
