"""The screened features, to explore: those that were tested first, then those that discriminate flips best."""

import numpy as np
import pandas as pd

from interp.schemas.layers import Layers
from interp.schemas.neuronpedia import SITE
from interp.views.numbers import number
from interp.views.report.explorer import Explorer, Field, bounded

FEATURES_SHOWN = 1000
"""Most features on a page."""
SIMILAR = "≈"
"""Marks the page of another feature."""
FIELDS = [
    Field("name", "feature", meaning="layer, and index in the SAE"),
    Field("layer_name", "layer", "choice", shown=False),
    Field("place", "place", "choice", "what a tested feature has to do with the flips"),
    Field("flip_auc", "flip AUC", "number", "how well the size of its change discriminates flips, selection half"),
    Field("flip_p", "p", "p", "of the flip AUC, adjusted"),
    Field("held_out_auc", "held-out AUC", "number", "the same on other patients; tested features only", shown=False),
    Field("net", "recovery, net", "number", "of the margin shift by its patch, net of random; tested features only"),
    Field("mediated", "mediated", "number", "the part that layers above the feature make", shown=False),
    Field("margin_r", "r with margin", "number", "correlation of its change with the margin shift"),
    Field("register_auc", "register AUC", "number", "above .5 more active on formal wordings"),
    Field("density", "density [%]", "number", "wordings on which it is active", digits=1, factor=100),
    Field("mean_activation", "mean activation", "number", "where it is active", shown=False),
    Field("page", "Neuronpedia", "link", "≈: the most similar feature with a page, by decoder cosine"),
]
"""The columns."""


def feature_explorer(search: Layers | None, screened: pd.DataFrame | None) -> Explorer | None:
    """The explorer of a search's features; None if it has no table of features."""
    if search is None or screened is None or not len(screened):
        return None
    frame = screened.reindex(columns=[*dict.fromkeys([*screened, *(f.name for f in FIELDS)])])
    untested = frame["place"].isna()
    frame = frame.assign(
        strength=np.where(untested, -(frame["flip_auc"].astype(float) - 0.5).abs(), 0.0), untested=untested
    )
    frame = bounded(frame.sort_values(["untested", "strength"], kind="stable"), FEATURES_SHOWN)
    pages = [page_of(search, layer, feature) for layer, feature in zip(frame["layer"], frame["feature"], strict=True)]
    frame = frame.assign(
        name=[f"{layer}:{feature}" for layer, feature in zip(frame["layer"], frame["feature"], strict=True)],
        layer_name=frame["layer"].astype(str),
        page=pd.Series(pages, dtype=object),
    )
    shown = [f for f in FIELDS if frame[f.name].notna().any()]
    cut = f"{len(frame):,} of {len(screened):,} features" if len(frame) < len(screened) else f"{len(frame):,} features"
    one = [f"Find one: search {entry.layer}:{entry.feature}." for entry in search.features[:1]]
    return Explorer(
        "features-screened",
        f"Screened features: {cut}, tested ones first",
        shown,
        frame,
        "Features that are never active are left out; features.parquet has all others.",
        hints=["Which features flip with a change of register? Sort by register AUC.", *one],
    )


def page_of(search: Layers, layer: int, feature: int) -> tuple[str, str] | None:
    """The text and address of a feature's page on Neuronpedia; None if there is none.

    The address is that of its own page, or else that of the most similar feature, whose text begins with SIMILAR.
    """
    own = next((entry.neuronpedia for entry in search.sae_sources if entry.layer == layer), None)
    if own is not None:
        return "page", f"{SITE}/{own}/{feature}"
    tested = next((entry for entry in search.features if (entry.layer, entry.feature) == (layer, feature)), None)
    near = tested.nearest_page if tested is not None else None
    # Only pages of that site are linked, whatever a file says.
    if near is None or not near.address.startswith(f"{SITE}/"):
        return None
    return f"{SIMILAR} {near.layer}:{near.feature} ({number(near.cosine)})", near.address
