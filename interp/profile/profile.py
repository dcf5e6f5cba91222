"""The layer profile: what each layer's features and patches do on the flips of the held-out half."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.causal.answer_patching import AnswerPatches
from interp.causal.layer_patching import LayerPatches
from interp.causal.register_patching import RegisterPatches
from interp.schemas.layers import ProfileEntry
from interp.schemas.record import Interval
from interp.screening.flips import Flips, Halves
from interp.screening.layers import ScreenedLayers
from interp.statistics import (
    INTERVAL,
    Estimate,
    auc,
    benjamini_hochberg,
    clusters_drawn,
    midranks,
    ratio_interval,
    ratio_sign_flips,
    weighted_aucs,
)


class LayerEffects(NamedTuple):
    """The effects of patching whole layers, on the held-out flip bank unless another is named [logits]."""

    patches: LayerPatches
    """Residual and direct-effect patches with their controls."""
    answers: AnswerPatches
    """Answer patches."""
    selected: Flips
    """The pairs of the selection half from which ranges are taken (`interp.screening.flips.filled_bank`)."""
    answers_selected: AnswerPatches
    """Answer patches on `selected`."""
    patches_selected: LayerPatches
    """Residual and direct-effect patches on `selected`."""
    answers_by_image: AnswerPatches
    """Answer patches of other images under the same words, of patients of the held-out half."""
    by_image: Flips
    """The prompts of `answers_by_image`, each with its own and the other image."""
    register: RegisterPatches | None
    """Register patches; None without formal and casual wordings."""
    register_selected: RegisterPatches | None
    """Register patches on `selected`."""


BLIND = 0.05
"""Least recovery by the answer patch of answers that differ by image where the image has arrived at the final token."""
DRAWS = 1000
"""Number of bootstrap samples for each interval of layers.json."""


def layer_profile(
    layers: Sequence[int],
    screened: ScreenedLayers,
    joint: NDArray[np.float64],
    halves: Halves,
    effects: LayerEffects,
    seed: int,
) -> list[ProfileEntry]:
    """One entry per layer, from the patches of the held-out flip bank.

    `joint` [bank, 2, layers] are effects of the joint feature patches (`interp.causal.feature_patching.joint_effects`).
    """
    patches, answers = effects.patches, effects.answers
    scores, held_out = screened.scores, halves.held_out
    null = shuffled_auc(scores, held_out, seed)
    values = auc(scores, held_out.flipped)
    intervals = auc_intervals(scores, held_out, seed)
    size = np.abs(patches.shift)
    residual, random_residual = patches.along_shift(patches.residual), patches.along_shift(patches.random_residual)
    write, random_write = patches.along_shift(patches.write), patches.along_shift(patches.random_write)
    feature, random_feature = patches.along_shift(joint[:, 0]), patches.along_shift(joint[:, 1])
    patients = halves.held_out_bank.pairs["patient"].tolist()
    growth = answer_growth(answers, layers)
    growth_p = growth_significance(growth, size, patients, seed)

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
            answer=share(answers.answer[:, i]),
            random_answer=share(answers.random[:, i]),
            answer_growth=share(growth[layer]) if layer in growth else None,
            growth_p=growth_p.get(layer),
            register_patch=share(effects.register.register[:, i]) if effects.register else None,
            random_register=share(effects.register.random[:, i]) if effects.register else None,
            reversals=int(patches.reversed[:, i].sum()),
            r2=Interval.of(transfer.r2),
            transfer=transfer.verdict,
            fvu=fit.fvu,
            l0=fit.l0,
        )
        for i, (layer, (fit, transfer)) in enumerate(zip(layers, screened.fits, strict=True))
    ]


def blind_layers(answers_by_image: AnswerPatches, by_image: Flips) -> int:
    """Number of the first profiled layers at whose final token no image has arrived.

    There, exchanging the difference between two images (`by_image`, whose answers differ) recovers less than BLIND.
    The number is 0 where it does so at every layer, or was not measured: then nothing tells where images arrive.
    """
    net = (answers_by_image.answer - answers_by_image.random).sum(0)
    reached = net >= BLIND * np.abs(by_image.margin_before - by_image.margin_after).sum()
    return int(reached.argmax()) if len(by_image.pairs) and reached.any() else 0


def answer_growth(answers: AnswerPatches, layers: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Layer -> growth [n] of the net effect of the answer patch since the profiled layer below it [logits].

    There is no answer before layer 0. Where the profile begins later, its first layer has no growth, since its answer
    may have been made in any layer below it.
    """
    net = answers.answer - answers.random
    grown = np.diff(net, axis=1, prepend=0.0)
    return {layer: grown[:, i] for i, layer in enumerate(layers) if i or layer == 0 or len(layers) == 1}


def growth_significance(
    growth: Mapping[int, NDArray[np.float64]], size: NDArray[np.float64], patients: Sequence[str], seed: int
) -> dict[int, float]:
    """Layer -> p of its growth [n] as a share of the shift `size` [n], adjusted over the layers.

    The test is the sign-flip test over patients, the adjustment that of Benjamini and Hochberg. Without pairs p is 1.
    """
    alone = [ratio_sign_flips(each, size, patients, seed)[1] for each in growth.values()]
    return dict(zip(growth, benjamini_hochberg(np.nan_to_num(alone, nan=1.0)).tolist(), strict=True))


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
    n = len(flips.flipped)
    if flips.flipped.sum() in (0, n):
        return None
    order = np.argsort(flips.pairs["patient"].to_numpy(), kind="stable")
    labels, ranks = flips.flipped[order], midranks(scores[order])
    offsets = np.random.default_rng([seed, 11]).integers(1, n, draws)
    positive = int(labels.sum())
    # Shuffled labels leave the ranks as they are, so the ranks are computed once (compare `interp.statistics.auc`).
    sums = np.stack([np.roll(labels, k) for k in offsets]).astype(float) @ ranks
    values = (sums - positive * (positive + 1) / 2) / (positive * (n - positive))
    return float(np.percentile(values.max(1), 95))


def commit_layer(profile: Sequence[ProfileEntry], flips: int) -> int | None:
    """The first profiled layer whose residual patch restores at least half of the flips; None if none does."""
    return next((p.layer for p in profile if flips and p.reversals >= flips / 2), None)
