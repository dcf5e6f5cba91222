"""The layer profile: what each layer's features and patches do on held-out flips; ranges and verdict from it."""

import numpy as np
from numpy.typing import NDArray

from interp.causal.layer_patching import LayerPatch
from interp.saes.reconstruction import Fit, Transfer
from interp.schemas.layers import Interval, ProfileEntry
from interp.screening.flips import Flips
from interp.statistics import Estimate, auc, clusters_drawn, ratio_interval, weighted_aucs

DRAWS = 1000
LEAST_SHARE = 0.5
"""Least share of the write patches' whole net recovery that the range of a gate holds."""


def layer_profile(
    layers: list[int],
    scores: NDArray[np.float64],
    held_out: Flips,
    banked: Flips,
    patch: LayerPatch,
    joint: NDArray[np.float64],
    fits: list[tuple[Fit, Transfer]],
    seed: int,
) -> list[ProfileEntry]:
    """One entry a layer.

    `scores` [pairs, layers] tell held-out flips (see `flip_score`); `patch` and `joint` are of the banked ones, `joint`
    [flips, 2, layers] the effect of the joint patch of the chosen features and of random directions of its norm.
    """
    null = shuffled_auc(scores, held_out, seed)
    values = auc(scores, held_out.flipped)
    intervals = auc_intervals(scores, held_out, seed)
    size = np.abs(patch.shift)
    recovered, control = patch.along_shift(patch.effect), patch.along_shift(patch.control)
    write, write_control = patch.along_shift(patch.write), patch.along_shift(patch.write_control)
    together, together_control = patch.along_shift(joint[:, 0]), patch.along_shift(joint[:, 1])
    patients = banked.pairs["patient"].tolist()

    def share(logits: NDArray[np.float64]) -> Interval:
        return Interval.of(ratio_interval(logits, size, patients, seed, DRAWS))

    return [
        ProfileEntry(
            layer=layer,
            flip_auc=Interval.of(Estimate(values[i], *intervals[:, i])),
            flip_auc_null=null,
            recovery=share(recovered[:, i]),
            random_patch=share(control[:, i]),
            write=share(write[:, i]),
            random_write=share(write_control[:, i]),
            net_write=share((write - write_control)[:, i]),
            feature_patch=share(together[:, i]),
            explained=_ratio(together[:, i].sum(), recovered[:, i].sum()),
            net_feature_patch=share((together - together_control)[:, i]),
            reversals=int(patch.reversed[:, i].sum()),
            r2=Interval.of(fits[i][1].r2),
            transfer=fits[i][1].verdict,
            fvu=fits[i][0].fvu,
            l0=fits[i][0].l0,
        )
        for i, layer in enumerate(layers)
    ]


def _ratio(top: float, bottom: float) -> float | None:
    return round(float(top / bottom), 6) if bottom else None


def auc_intervals(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> NDArray[np.float64]:
    """95% bootstrap interval over patients of each column's AUC, [2, layers]."""
    if flips.flipped.sum() in (0, len(flips.flipped)):
        return np.full((2, scores.shape[1]), np.nan)
    member, drawn = clusters_drawn(flips.pairs["patient"].tolist(), draws, seed)
    samples = weighted_aucs(scores, flips.flipped, drawn[:, member])
    return np.nanpercentile(samples, [2.5, 97.5], axis=0)


def shuffled_auc(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> float | None:
    """95th percentile of the best layer's AUC when flips are shuffled; None without flips.

    Flips come in clusters (a hard question flips on several paraphrases), so the labels, in patient order, are rotated
    as a whole by a random offset, which keeps the clusters.
    """
    from scipy.stats import rankdata

    n = len(flips.flipped)
    if flips.flipped.sum() in (0, n):
        return None
    order = np.argsort(flips.pairs["patient"].to_numpy(), kind="stable")
    labels, ranks = flips.flipped[order], rankdata(scores[order], axis=0)
    offsets = np.random.default_rng([seed, 11]).integers(1, n, draws)
    positive = int(labels.sum())
    # Shuffling the labels leaves the ranks as they are (compare `interp.statistics.auc`).
    sums = np.stack([np.roll(labels, k) for k in offsets]).astype(float) @ ranks
    values = (sums - positive * (positive + 1) / 2) / (positive * (n - positive))
    return float(np.percentile(values.max(1), 95))


def commit_layer(profile: list[ProfileEntry], flips: int) -> int | None:
    """The first layer whose layer patch turns at least half of the flips back; None if none does."""
    return next((p.layer for p in profile if flips and p.reversals >= flips / 2), None)
