"""The figures of a search."""

from typing import TYPE_CHECKING

import pandas as pd

from interp.views.figures.margin import delta_against_margin, delta_frame
from interp.views.figures.profile import layer_profile, profile_frame
from interp.views.figures.register import REGISTERS, activation_by_register, register_frame
from interp.views.figures.style import Drawing

if TYPE_CHECKING:
    from interp.search.find import FindResult


def search_drawings(result: "FindResult") -> list[Drawing]:
    """Every figure that the result has data for: no feature, no delta; no tags of register, no activation by them."""
    artifact = result.artifact
    found = [Drawing("layer_profile", profile_frame(artifact), lambda size: layer_profile(artifact, size=size))]
    if artifact.features:
        pairs = delta_of(result)
        found.append(Drawing("delta_margin", pairs, lambda size: delta_against_margin(pairs, size=size)))
        wordings = activations_of(result)
        if set(REGISTERS) <= set(wordings["register"]):
            found.append(Drawing("register", wordings, lambda size: activation_by_register(wordings, size=size)))
    return found


def delta_of(result: "FindResult") -> pd.DataFrame:
    """The `delta_frame` of a search's top feature, over all pairs."""
    top, pairs = result.artifact.features[0], result.flips.pairs
    delta = result.top_activations[pairs["paraphrase"]] - result.top_activations[pairs["original"]]
    return delta_frame(top.layer, top.feature, delta, result.flips)


def activations_of(result: "FindResult") -> pd.DataFrame:
    """The `register_frame` of a search's top feature, over all tagged wordings."""
    top = result.artifact.features[0]
    return register_frame(top.layer, top.feature, result.top_activations, result.prompts["register"].to_numpy())
