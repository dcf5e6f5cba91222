"""Statistics of every feature of one layer: which ones change at the final prompt token when the answer flips."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.saes.sae import Sae, encode_features
from interp.saes.sparse_codes import Codes, design_effects, size_ranks, sparse_auc
from interp.screening.flips import Flips, sides
from interp.statistics import auc_p_value, benjamini_hochberg, cluster_of, intraclass_correlation

SCREEN_COLUMNS = {
    "layer": "decoder layer",
    "feature": "index of the feature in the SAE",
    "flip_auc": "AUC of |delta| for flipped against unflipped pairs",
    "flip_p": "two-sided p of flip_auc over patients, Benjamini-Hochberg adjusted over all features screened",
    "delta_on_flips": "mean |delta| over flipped pairs [activation units]",
    "delta_otherwise": "mean |delta| over the other pairs [activation units]",
    "margin_r": "Pearson correlation of delta with the margin shift m(p) - m(q)",
    "density": "feature density: share of prompts on which the feature is active",
    "mean_activation": "mean over the prompts on which the feature is active [activation units]",
    "register_auc": "AUC of the activation for formal against casual wordings; NaN where wordings have no register",
    "attribution": "recovery by the feature's patch on the flip bank of the same pairs, as the gradient predicts it",
    "path_attribution": "the same with the mean gradient over PATH_STEPS points on the path to the original's residual",
}
"""Column of a screen -> its meaning. delta is the activation on the paraphrase minus that on the original."""


class ScreenedPairs(NamedTuple):
    """Prompts and pairs on which features are screened: what the statistics of every layer need of them."""

    flips: Flips
    """The pairs."""
    prompts: int
    """Number of prompts of these pairs."""
    used: Tensor
    """Whether a prompt is one of these: bool [n prompts]."""
    flipped: Tensor
    """Whether the answer of a pair flips: bool [pairs]."""
    centred: Tensor
    """Margin shift less its mean [logits]: float64 [pairs]."""
    cluster: Tensor
    """Number of each pair's patient: int64 [pairs]."""
    cluster_size: Tensor
    """Number of pairs of each patient: int64 [patients]."""
    alike: float
    """Correlation of the flips of two pairs of one patient."""
    tagged: Tensor
    """Whether a prompt is used and has a register: bool [n prompts]."""
    n_tagged: int
    """Number of such prompts."""
    formal: Tensor
    """Whether a prompt is used and formal: bool [n prompts]."""

    @classmethod
    def of(cls, prompts: pd.DataFrame, flips: Flips, device: torch.device | str = "cpu") -> "ScreenedPairs":
        """Prepare rows of `interp.questions.tables.prompt_table` and pairs of them for SAEs on a device."""
        used, register = np.zeros(len(prompts), bool), prompts["register"].to_numpy()
        used[flips.pairs[["original", "paraphrase"]].to_numpy()] = True
        tagged, shift = used & pd.notna(register), flips.margin_after - flips.margin_before
        patients = flips.pairs["patient"].tolist()
        cluster = cluster_of(patients)
        arrays = {
            "used": used,
            "flipped": flips.flipped,
            "centred": shift - shift.mean() if len(shift) else shift,
            "cluster": cluster,
            "cluster_size": np.bincount(cluster),
            "tagged": tagged,
            "formal": used & (register == "formal"),
        }
        return cls(
            flips=flips,
            prompts=int(used.sum()),
            alike=intraclass_correlation(flips.flipped.astype(float), patients),
            n_tagged=int(tagged.sum()),
            **{name: torch.from_numpy(array).to(device) for name, array in arrays.items()},
        )


def screen_layer(layer: int, codes: Codes, delta: Codes, pairs: ScreenedPairs) -> pd.DataFrame:
    """Screen every feature of one SAE on the given pairs: SCREEN_COLUMNS without the attributions; p is not adjusted.

    `codes` [n prompts, d_sae] are the activations of the SAE of `layer` at the final tokens of all prompts
    (`interp.saes.sparse_codes.encode_sparse`), `delta` [pairs, d_sae] their differences over the pairs. Features that
    are active on none of the prompts of these pairs are left out.
    """
    here = pairs.used[codes.row]
    firing, activation = codes.sums(torch.stack([here, codes.value * here]))
    n, n_flips = len(pairs.flips.flipped), int(pairs.flips.flipped.sum())
    size, change, flipped = delta.value.abs(), delta.value.double(), pairs.flipped[delta.row]
    product = change * pairs.centred[delta.row]
    *sums, total, square = delta.sums(torch.stack([size * flipped, size * ~flipped, product, change, change**2]))
    spread = (square / n - (total / n) ** 2).clamp(min=0).sqrt()
    ranks = size_ranks(delta)
    # The pairs of one patient are not independent.
    inflation = design_effects(ranks, pairs.cluster, pairs.cluster_size, pairs.alike)
    register_auc = sparse_auc(size_ranks(codes.rows(pairs.tagged, pairs.n_tagged)), pairs.formal)
    found = [firing, activation, *sums, spread, sparse_auc(ranks, pairs.flipped), inflation, register_auc]
    # In main memory at once, because every copy waits for the GPU.
    values = torch.stack(found).cpu().numpy()
    features = np.flatnonzero(values[0])
    firing, activation, on_flips, otherwise, product, spread, flip_auc, inflation, register_auc = values[:, features]
    shift = pairs.flips.margin_after - pairs.flips.margin_before
    with np.errstate(invalid="ignore", divide="ignore"):
        r = product / (spread * shift.std() * n)
    return pd.DataFrame(
        {
            "layer": layer,
            "feature": features,
            "flip_auc": flip_auc,
            "flip_p": auc_p_value(flip_auc, n_flips, n - n_flips, inflation),
            "delta_on_flips": on_flips / n_flips if n_flips else np.nan,
            "delta_otherwise": otherwise / (n - n_flips) if n_flips < n else np.nan,
            "margin_r": r,
            "density": firing / pairs.prompts,
            "mean_activation": activation / firing,
            "register_auc": register_auc,
        }
    )


def adjust(screen: pd.DataFrame) -> pd.DataFrame:
    """Adjust `flip_p` over all features of all layers, and sort by flip AUC, highest first."""
    known = screen["flip_p"].notna()
    adjusted = screen["flip_p"].to_numpy(copy=True)
    adjusted[known] = benjamini_hochberg(adjusted[known])
    return screen.assign(flip_p=adjusted).sort_values("flip_auc", ascending=False, ignore_index=True)


def flip_score(codes: Codes, chosen: pd.DataFrame, flips: Flips) -> NDArray[np.float64]:
    """How much the chosen features of one layer change in each pair: mean of |delta| / mean activation, [pairs].

    `codes` [n prompts, d_sae] are the activations of the layer's SAE, `chosen` rows of a screen. The division keeps a
    feature with large activations from dominating the others.
    """
    features = torch.from_numpy(chosen["feature"].to_numpy(np.int64, copy=True))
    activations = codes.of_features(features).T.contiguous().numpy().astype(float)
    delta = np.abs(activations[flips.pairs["paraphrase"]] - activations[flips.pairs["original"]])
    return (delta / chosen["mean_activation"].to_numpy()).mean(1)


def feature_delta(sae: Sae, residuals: Tensor, pairs: pd.DataFrame, features: Tensor) -> Tensor:
    """f(p) - f(q) of k features at the final token: float32 [pairs, k] on the CPU.

    `residuals` [n prompts, d_model] are those of the SAE's layer.
    """
    before, after = sides(pairs)
    f = [encode_features(sae, residuals[rows], features) for rows in (after, before)]
    return f[0] - f[1]


def joint_feature_patch(sae: Sae, codes: Codes, pairs: pd.DataFrame, features: Sequence[int]) -> Tensor:
    """The patch of several features at once: float32 [pairs, d_model], to add to the paraphrase's residual.

    `codes` [n prompts, d_sae] are the activations of the SAE.
    """
    columns = torch.tensor(features, dtype=torch.long)
    activation = codes.of_features(columns)
    before, after = (activation[:, rows] for rows in sides(pairs))
    return (before - after).T @ sae.w_dec[to_device_async(columns, sae.w_dec.device)].float().cpu()
