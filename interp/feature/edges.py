"""The edges of the studied feature: from tokens, and to features, with the SAEs of other layers loaded in turn."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pandas as pd

from interp.causal.edges import feature_edges
from interp.causal.token_edges import token_edges
from interp.model.vlm import Vlm
from interp.saes.sae import Sae, load_sae
from interp.schemas.record import interval_of
from interp.schemas.study import EdgeEntry, TokenEdgeEntry
from interp.screening.flips import Flips


def find_edges(
    vlm: Vlm, prompts: pd.DataFrame, flips: Flips, sae_of: Mapping[int, Path], sae: Sae, feature: int, seed: int
) -> list[EdgeEntry]:
    """The edges to and from a feature on some pairs; none without pairs.

    `sae_of` is layer -> SAE folder; the feature's own layer keeps `sae`. Raises InputError as
    `interp.saes.sae.load_sae` does.
    """
    if not len(flips.pairs):
        return []

    @lru_cache(1)
    def load(layer: int) -> Sae:
        return load_sae(sae_of[layer], layer, vlm.d_model, vlm.device, sae.w_dec.dtype)

    layers = sorted({*(layer for layer in sae_of if layer < vlm.n_layers), sae.layer})
    found = feature_edges(vlm, prompts, flips, lambda k: sae if k == sae.layer else load(k), layers, sae, feature, seed)
    return [
        EdgeEntry(
            source_layer=edge.source[0],
            source_feature=edge.source[1],
            target_layer=edge.target[0],
            target_feature=edge.target[1],
            predicted=edge.predicted,
            undone=interval_of(edge.undone),
        )
        for edge in found
    ]


def find_token_edges(
    vlm: Vlm, prompts: pd.DataFrame, flips: Flips, sae: Sae, feature: int, seed: int
) -> list[TokenEdgeEntry]:
    """The edges from earlier tokens to a feature on some pairs; none without pairs."""
    if not len(flips.pairs):
        return []
    return [
        TokenEdgeEntry(layer=edge.layer, tokens=edge.tokens, undone=interval_of(edge.undone))
        for edge in token_edges(vlm, prompts, flips, sae, feature, seed)
    ]
