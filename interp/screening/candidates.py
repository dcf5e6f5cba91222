"""Candidates: the features that are patched, chosen on the selection half, and their flip AUC on the held-out half."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from interp.saes.sae import encode_features
from interp.screening.flips import Flips
from interp.screening.sae_inputs import SaeInputs
from interp.statistics import auc

Candidate = tuple[int, int]
"""Layer and feature."""


def choose_candidates(screen: pd.DataFrame, count: int) -> list[Candidate]:
    """Choose the `count` features of highest path attribution, which comes from the selection half alone.

    Flip AUC chooses none: a feature that a gate reads also moves in pairs that do not flip, and so ranks low.
    """
    best = screen.sort_values("path_attribution", ascending=False, kind="stable").head(count)
    return [(int(layer), int(feature)) for layer, feature in zip(best["layer"], best["feature"], strict=True)]


def held_out_aucs(candidates: Sequence[Candidate], inputs: SaeInputs, held_out: Flips) -> dict[Candidate, float]:
    """AUC of every candidate's |delta| for flipped against other pairs of the held-out half."""
    found: dict[Candidate, float] = {}
    for layer in sorted({layer for layer, _ in candidates}):
        sae, residuals = inputs.at(layer)
        here = [feature for place, feature in candidates if place == layer]
        f = encode_features(sae, residuals, torch.tensor(here)).numpy()
        values = auc(np.abs(f[held_out.pairs["paraphrase"]] - f[held_out.pairs["original"]]), held_out.flipped)
        found |= {(layer, feature): float(value) for feature, value in zip(here, values, strict=True)}
    return found
