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
    """Choose `count` features: half with the highest flip AUC, the rest with the highest attribution.

    Both scores in `screen` come from the selection half alone.
    """
    by_auc, by_attribution = (
        screen.sort_values(name, ascending=False, kind="stable") for name in ("flip_auc", "attribution")
    )
    wanted: dict[Candidate, None] = {}
    for ordered, size in ((by_auc, count // 2), (by_attribution, count)):
        for layer, feature in zip(ordered["layer"], ordered["feature"], strict=True):
            if len(wanted) >= size:
                break
            wanted[int(layer), int(feature)] = None
    return list(wanted)


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
