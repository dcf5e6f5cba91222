"""The layer profile: what each layer's features and patches do on the flips of the held-out half."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.causal.layer_patching import LayerPatches
from interp.schemas.layers import ProfileEntry
from interp.schemas.record import Interval
from interp.screening.flips import Flips, Halves
from interp.screening.layers import ScreenedLayers
from interp.statistics import INTERVAL, Estimate, auc, clusters_drawn, ratio_interval, weighted_aucs

DRAWS = 1000
"""Number of bootstrap samples for each interval of layers.json."""


def layer_profile(
    layers: Sequence[int],
    screened: ScreenedLayers,
    halves: Halves,
    patches: LayerPatches,
    joint: NDArray[np.float64],
    seed: int,
) -> list[ProfileEntry]:
    """One entry per layer.

    `patches` are those of the held-out bank, and so is `joint` [bank, 2, layers], the effect of the joint feature patch
    and of random directions of its norm [logits].
    """
    scores, held_out = screened.scores, halves.held_out
    null = shuffled_auc(scores, held_out, seed)
    values = auc(scores, held_out.flipped)
    intervals = auc_intervals(scores, held_out, seed)
    size = np.abs(patches.shift)
    residual, random_residual = patches.along_shift(patches.residual), patches.along_shift(patches.random_residual)
    write, random_write = patches.along_shift(patches.write), patches.along_shift(patches.random_write)
    feature, random_feature = patches.along_shift(joint[:, 0]), patches.along_shift(joint[:, 1])
    patients = halves.held_out_bank.pairs["patient"].tolist()

    def share(logits: NDArray[np.float64]) -> Interval:
        return Interval.of(ratio_interval(logits, size, patients, seed, DRAWS))

    return [
        ProfileEntry(
            layer=layer,
            flip_auc=Interval.of(Estimate(values[i], *intervals[:, i])),
            flip_auc_null=null,
            recovery=share(residual[:, i]),
            random_patch=share(random_residual[:, i]),
            write=share(write[:, i]),
            random_write=share(random_write[:, i]),
            net_write=share((write - random_write)[:, i]),
            feature_patch=share(feature[:, i]),
            explained=_ratio(feature[:, i].sum(), residual[:, i].sum()),
            net_feature_patch=share((feature - random_feature)[:, i]),
            reversals=int(patches.reversed[:, i].sum()),
            r2=Interval.of(transfer.r2),
            transfer=transfer.verdict,
            fvu=fit.fvu,
            l0=fit.l0,
        )
        for i, (layer, (fit, transfer)) in enumerate(zip(layers, screened.fits, strict=True))
    ]


def _ratio(top: float, bottom: float) -> float | None:
    return round(float(top / bottom), 6) if bottom else None


def auc_intervals(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> NDArray[np.float64]:
    """95% bootstrap interval over patients of the AUC of each column of `scores` [pairs, k] for flips: [2, k]."""
    if flips.flipped.sum() in (0, len(flips.flipped)):
        return np.full((2, scores.shape[1]), np.nan)
    member, drawn = clusters_drawn(flips.pairs["patient"].tolist(), draws, seed)
    samples = weighted_aucs(scores, flips.flipped, drawn[:, member])
    return np.nanpercentile(samples, INTERVAL, axis=0)


def shuffled_auc(scores: NDArray[np.float64], flips: Flips, seed: int, draws: int = 300) -> float | None:
    """95th percentile of the best layer's AUC when flips are shuffled; None if no pair flips, or every one.

    Flips are clustered: a hard question flips on several paraphrases. To keep the clusters, the labels are rotated by a
    random offset in the order of the patients.
    """
    from scipy.stats import rankdata

    n = len(flips.flipped)
    if flips.flipped.sum() in (0, n):
        return None
    order = np.argsort(flips.pairs["patient"].to_numpy(), kind="stable")
    labels, ranks = flips.flipped[order], rankdata(scores[order], axis=0)
    offsets = np.random.default_rng([seed, 11]).integers(1, n, draws)
    positive = int(labels.sum())
    # Shuffled labels leave the ranks as they are, so the ranks are computed once (compare `interp.statistics.auc`).
    sums = np.stack([np.roll(labels, k) for k in offsets]).astype(float) @ ranks
    values = (sums - positive * (positive + 1) / 2) / (positive * (n - positive))
    return float(np.percentile(values.max(1), 95))


def commit_layer(profile: Sequence[ProfileEntry], flips: int) -> int | None:
    """The first profiled layer whose residual patch restores at least half of the flips; None if none does."""
    return next((p.layer for p in profile if flips and p.reversals >= flips / 2), None)
