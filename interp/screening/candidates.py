"""The features that go through exact tests, chosen on one half of the patients, and what the tests say of them."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from interp.measurement.residual_store import Residuals
from interp.saes.sae import Sae, encode_features
from interp.screening.flips import Flips
from interp.statistics import auc

Candidate = tuple[int, int]
"""Layer and feature."""


def choose_candidates(screen: pd.DataFrame, count: int) -> list[Candidate]:
    """Half of them by flip AUC, half by attribution; both were measured on the chosen half of the patients alone."""
    by_auc, by_push = (screen.sort_values(name, ascending=False, kind="stable") for name in ("flip_auc", "attribution"))
    wanted: dict[Candidate, None] = {}
    for ordered, size in ((by_auc, count // 2), (by_push, count)):
        for layer, feature in zip(ordered["layer"], ordered["feature"], strict=True):
            if len(wanted) >= size:
                break
            wanted[int(layer), int(feature)] = None
    return list(wanted)


def held_out_aucs(
    candidates: Sequence[Candidate],
    load: Callable[[int], Sae],
    residuals: Residuals,
    held_out: Flips,
) -> dict[Candidate, float]:
    """AUC of |delta| for held-out flips of every candidate; `load` gives the SAE of a layer."""
    found: dict[Candidate, float] = {}
    for layer in sorted({layer for layer, _ in candidates}):
        sae = load(layer)
        mine = [feature for place, feature in candidates if place == layer]
        f = encode_features(sae, residuals.after(layer), torch.tensor(mine)).numpy()
        values = auc(np.abs(f[held_out.pairs["paraphrase"]] - f[held_out.pairs["original"]]), held_out.flipped)
        found |= {(layer, feature): float(value) for feature, value in zip(mine, values, strict=True)}
    return found
