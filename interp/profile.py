"""The layer profile: what each layer's features and patches do on held-out flips; ranges and verdict from it."""

import numpy as np
from numpy.typing import NDArray

from interp.artifact import Interval, ProfileEntry, Verdict
from interp.features import Flips
from interp.fit import Fit, Transfer
from interp.layers import LayerRange, Profile, Rule, growth_range, layers_text, level_range
from interp.patching import LayerPatch
from interp.statistics import Estimate, auc, clusters_drawn, ratio_interval, weighted_aucs

DRAWS = 1000
LEAST_SHARE = 0.5
"""Least share of the write patches' whole net recovery that the range of a gate holds."""
OWN_PROFILE: dict[Rule, Profile] = {"write": "write", "rise": "recovery", "level": "auc"}
"""What each rule reads where nothing else is asked for."""


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
    step = np.diff(recovered - control, axis=1, prepend=0)
    patients = banked.pairs["patient"].tolist()

    def share(logits: NDArray[np.float64]) -> Interval:
        return Interval.of(ratio_interval(logits, size, patients, seed, DRAWS))

    return [
        ProfileEntry(
            layer=layer,
            flip_auc=Interval.of(Estimate(values[i], *intervals[:, i])),
            flip_auc_null=null,
            recovery=share(recovered[:, i]),
            control=share(control[:, i]),
            step=share(step[:, i]),
            write=share(write[:, i]),
            write_control=share(write_control[:, i]),
            net_write=share((write - write_control)[:, i]),
            joint=share(together[:, i]),
            explained=_ratio(together[:, i].sum(), recovered[:, i].sum()),
            net_joint=share((together - together_control)[:, i]),
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


def ranges_of(profile: list[ProfileEntry], max_width: int) -> dict[tuple[Rule, Profile], LayerRange]:
    """The range that every rule takes from every profile that it can read."""
    layers = [p.layer for p in profile]
    scores: dict[Profile, list[float]] = {
        "auc": [p.flip_auc.value or 0.0 for p in profile],
        "recovery": [(p.recovery.value or 0.0) - (p.control.value or 0.0) for p in profile],
        "net": [p.net_joint.value or 0.0 if p.net_joint else 0.0 for p in profile],
    }
    writes = {p.layer: p.net_write.value or 0.0 for p in profile}
    found: dict[tuple[Rule, Profile], LayerRange] = {("write", "write"): growth_range(writes, max_width=max_width)}
    for name, values in scores.items():
        # Without any signal an AUC is one half, a recovery nothing.
        steps = np.diff(values, prepend=0.5 if name == "auc" else 0.0).tolist()
        found["rise", name] = growth_range(dict(zip(layers, steps, strict=True)), max_width=max_width)
        found["level", name] = level_range(dict(zip(layers, values, strict=True)), max_width=max_width)
    return found


def commit_layer(profile: list[ProfileEntry], flips: int) -> int | None:
    """The first layer whose layer patch turns at least half of the flips back; None if none does."""
    return next((p.layer for p in profile if flips and p.reversals >= flips / 2), None)


def judge(profile: list[ProfileEntry], banked: Flips, found: LayerRange, min_flips: int) -> tuple[Verdict, str]:
    """The verdict and its reason: a gate is found only if every one of these holds.

    Enough banked flips on the held-out half, from at least five patients; held-out features that tell flips better
    than shuffled labels do, at the best layer; somewhere in the range, a write patch whose net recovery has an interval
    above zero; and at least LEAST_SHARE of all that any layer writes inside the range: where answers turn at all, some
    layers write the turn, and only their being few makes a gate.
    """
    flips, patients = len(banked.pairs), banked.pairs["patient"].nunique()
    if flips < min_flips or patients < 5:
        return "no gate found", (
            f"{flips} flips of {patients} patients are large enough to study on the held-out half, "
            f"fewer than the {min_flips} of 5 that are needed"
        )
    best = max(profile, key=lambda p: p.flip_auc.value or 0.0)
    if best.flip_auc.value is None:
        return "no gate found", "all pairs of the held-out half flip, so that no feature can tell flips from others"
    if best.flip_auc_null is None or (best.flip_auc.value or 0.0) <= best.flip_auc_null:
        return "no gate found", (
            f"no layer's features tell held-out flips from other pairs better than shuffled labels "
            f"(best AUC {best.flip_auc.value:.2f} at layer {best.layer}, shuffled {best.flip_auc_null or 0:.2f})"
        )
    rising = [p.layer for p in profile if p.layer in found.layers and (p.net_write.low or 0.0) > 0]
    if not rising:
        return (
            "no gate found",
            f"in layers {found.first}-{found.last} no layer's own addition moves the answer more than its control",
        )
    written = {p.layer: max(0.0, p.net_write.value or 0.0) for p in profile}
    share = sum(written[layer] for layer in found.layers if layer in written) / sum(written.values())
    if share < LEAST_SHARE:
        return "no gate found", (
            f"what turns the answer is spread over the layers: {found.first}-{found.last} hold {share:.0%} of all that "
            f"is written, less than the {LEAST_SHARE:.0%} of a gate"
        )
    writers = f"layer {rising[0]} adds" if len(rising) == 1 else f"layers {layers_text(rising)} add"
    return "gate found", (
        f"what {writers} moves the answer more than random directions do; "
        f"held-out features tell flips at AUC {best.flip_auc.value:.2f} (shuffled {best.flip_auc_null:.2f})"
    )
