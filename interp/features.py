"""Screening: which features change when an answer flips, at the final prompt token, layer by layer."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.saes import Sae
from interp.statistics import auc, auc_p_value, benjamini_hochberg

SCREEN_COLUMNS = {
    "layer": "decoder layer",
    "feature": "index into the SAE",
    "flip_auc": "AUC of |delta| for flipped against unflipped pairs",
    "flip_p": "two-sided p of flip_auc, Benjamini-Hochberg adjusted over all features screened",
    "delta_on_flips": "mean |delta| over flipped pairs [activation units]",
    "delta_otherwise": "mean |delta| over the other pairs [activation units]",
    "margin_r": "Pearson r of delta with the margin shift m(p) - m(q)",
    "firing_rate": "share of prompts on which the feature is active",
    "mean_activation": "mean over the prompts on which it is active [activation units]",
    "register_auc": "AUC of the activation for formal against casual wordings; NaN where untagged",
    "attribution": "recovery that its delta patch would have on the same pairs' flip bank, by gradient",
}


class Flips(NamedTuple):
    """Pairs of a pair table, judged by their margins; one row a pair of a closed question."""

    pairs: pd.DataFrame
    """`interp.questions.pair_table` rows of closed questions, re-indexed from 0."""
    margin_before: NDArray[np.float64]
    """m(q) [logits]."""
    margin_after: NDArray[np.float64]
    """m(p) [logits]."""
    flipped: NDArray[np.bool_]
    """The sign of the margin changed."""
    banked: NDArray[np.bool_]
    """Flipped, and both margins at least `threshold` from zero."""

    def take(self, rows: NDArray[np.bool_]) -> "Flips":
        """The same for some of the pairs."""
        return Flips(
            self.pairs[rows].reset_index(drop=True),
            self.margin_before[rows],
            self.margin_after[rows],
            self.flipped[rows],
            self.banked[rows],
        )


def find_flips(prompts: pd.DataFrame, pairs: pd.DataFrame, margin: Tensor, threshold: float) -> Flips:
    """Judge every pair of a closed question. `margin` [n prompts]; `threshold` [logits] bounds the flip bank."""
    closed = prompts["closed"].to_numpy(bool)[pairs["original"].to_numpy()]
    pairs = pairs[closed].reset_index(drop=True)
    m = margin.double().numpy()
    before, after = m[pairs["original"].to_numpy()], m[pairs["paraphrase"].to_numpy()]
    flipped = (before > 0) != (after > 0)
    banked = flipped & (np.abs(before) >= threshold) & (np.abs(after) >= threshold)
    return Flips(pairs, before, after, flipped, banked)


def screen_layer(sae: Sae, residuals: Tensor, prompts: pd.DataFrame, flips: Flips, chunk: int = 2048) -> pd.DataFrame:
    """Screen every feature of one SAE on the given pairs; columns as in SCREEN_COLUMNS, p values not yet adjusted.

    `residuals` [n prompts, d_model] at the final token of every row of `prompts`. Features that are active on none
    of the prompts are left out. `chunk` features are held for all prompts at once, so that memory does not
    grow with the SAE's width.
    """
    used = np.unique(np.concatenate([flips.pairs["original"], flips.pairs["paraphrase"]]))
    register = prompts["register"].to_numpy()[used]
    tagged = pd.notna(register)
    x = residuals.to(sae.w_enc.device)
    alive = torch.zeros(sae.d_sae, dtype=torch.bool, device=x.device)
    for part in torch.from_numpy(used).to(x.device).split(512):
        alive |= (sae.encode(x[part]) > 0).any(0)
    tables = []
    for features in alive.nonzero()[:, 0].split(chunk):
        activations = sae.encode(x, features).cpu().numpy()
        tables.append(_screen_features(sae.layer, features.cpu().numpy(), activations, used, register, tagged, flips))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(SCREEN_COLUMNS))


def _screen_features(
    layer: int,
    features: NDArray[np.int64],
    activations: NDArray[np.float32],
    used: NDArray[np.int64],
    register: NDArray[np.object_],
    tagged: NDArray[np.bool_],
    flips: Flips,
) -> pd.DataFrame:
    delta = activations[flips.pairs["paraphrase"]] - activations[flips.pairs["original"]]
    size = np.abs(delta)
    shift = flips.margin_after - flips.margin_before
    here = activations[used]
    active = here > 0
    flip_auc = auc(size, flips.flipped)
    n_flips = int(flips.flipped.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = delta - delta.mean(0)
        r = centred.T @ (shift - shift.mean()) / (delta.std(0) * shift.std() * len(shift))
        mean_active = here.sum(0) / active.sum(0)
        mean_flips = size[flips.flipped].mean(0) if n_flips else np.full(len(features), np.nan)
    formal = register[tagged] == "formal"
    return pd.DataFrame(
        {
            "layer": layer,
            "feature": features,
            "flip_auc": flip_auc,
            "flip_p": auc_p_value(flip_auc, n_flips, len(flips.flipped) - n_flips),
            "delta_on_flips": mean_flips,
            "delta_otherwise": size[~flips.flipped].mean(0),
            "margin_r": r,
            "firing_rate": active.mean(0),
            "mean_activation": mean_active,
            "register_auc": auc(here[tagged], formal) if tagged.any() else np.nan,
        }
    )


def adjust(screen: pd.DataFrame) -> pd.DataFrame:
    """Adjust `flip_p` over all features of all layers, and sort by flip AUC."""
    known = screen["flip_p"].notna()
    adjusted = screen["flip_p"].to_numpy(copy=True)
    adjusted[known] = benjamini_hochberg(adjusted[known])
    return screen.assign(flip_p=adjusted).sort_values("flip_auc", ascending=False, ignore_index=True)


def flip_score(sae: Sae, residuals: Tensor, chosen: pd.DataFrame, flips: Flips) -> NDArray[np.float64]:
    """How much the chosen features of one layer move in each pair: mean of |delta| over their firing scale, [pairs].

    `chosen` are rows of a screen; each |delta| is divided by the feature's mean activation, so that no loud feature
    drowns the others.
    """
    features = torch.from_numpy(chosen["feature"].to_numpy(np.int64, copy=True))
    device = sae.w_enc.device
    activations = sae.encode(residuals.to(device), features.to(device)).cpu().numpy().astype(float)
    delta = np.abs(activations[flips.pairs["paraphrase"]] - activations[flips.pairs["original"]])
    return (delta / chosen["mean_activation"].to_numpy()).mean(1)
