"""Whether the layer profile was worth choosing by: its rank correlation with what the windows came to."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune.ablation.metrics import METRICS, Outcomes
from finetune.ablation.regret import goodness
from finetune.training.sensitivity import Sensitivity
from interp.schemas.layers import Interval, ProfileEntry
from interp.statistics import Estimate, FloatArray, percentiles

SHUFFLES = 5000
"""Permutations of the layers behind a p value."""
UNDEFINED = Estimate(np.nan, np.nan, np.nan)
DEPTH = "depth"
COMBINATIONS = {
    "write + gradient": ("write, net", "gradient norm"),
    "mean of all": ("flip AUC", "recovery, net", "write, net", "joint, net", "gradient norm", "Fisher"),
}
"""Scores made of others: the mean of a layer's ranks in them."""


def _net(value: Interval, control: Interval) -> float | None:
    return None if value.value is None or control.value is None else value.value - control.value


OF_PROFILE: dict[str, Callable[[ProfileEntry], float | None]] = {
    "flip AUC": lambda layer: layer.flip_auc.value,
    "recovery, net": lambda layer: _net(layer.recovery, layer.random_patch),
    "write, net": lambda layer: layer.net_write.value,
    "joint, net": lambda layer: layer.net_feature_patch.value if layer.net_feature_patch else None,
}
"""Name -> score of a layer in layers.json."""
SCORES = (*OF_PROFILE, "gradient norm", "Fisher", *COMBINATIONS, DEPTH)
"""Every score. Depth, the layer's number, is what all others have to beat."""


def layer_scores(profile: Sequence[ProfileEntry], sensitivities: Sequence[Sensitivity]) -> dict[str, dict[int, float]]:
    """Score -> layer -> value, where there is one; the sensitivity of a layer is that of its two modules together."""
    found = {
        score: {entry.layer: value for entry in profile if (value := read(entry)) is not None}
        for score, read in OF_PROFILE.items()
    }
    gradient: dict[int, float] = {}
    fisher: dict[int, float] = {}
    for each in sensitivities:
        gradient[each.layer] = gradient.get(each.layer, 0.0) + each.gradient**2
        fisher[each.layer] = fisher.get(each.layer, 0.0) + each.fisher
    found["gradient norm"] = {layer: float(np.sqrt(square)) for layer, square in gradient.items()}
    found["Fisher"] = fisher
    for name, parts in COMBINATIONS.items():
        layers = sorted(set.intersection(*(set(found[part]) for part in parts)))
        table = np.array([[found[part][layer] for layer in layers] for part in parts])
        ranks = _centred_ranks(table).mean(0) if layers else []
        found[name] = dict(zip(layers, map(float, ranks), strict=True))
    return found | {DEPTH: {entry.layer: float(entry.layer) for entry in profile}}


def picked_window(of_layer: Mapping[int, float], windows: Sequence[Sequence[int]], score: str) -> int | None:
    """The window that a score would take: that of the highest mean over its layers, the first of equals.

    By depth the earliest, which is what a trainer would take who searches for nothing. None if a layer of any window
    has no score.
    """
    if any(layer not in of_layer for window in windows for layer in window):
        return None
    means = np.round([np.mean([of_layer[layer] for layer in window]) for window in windows], 12)
    return int(np.argmax(-means if score == DEPTH else means))


class Worth(NamedTuple):
    """How far a score of the profile tells a metric of the windows."""

    score: str
    """A key of SCORES."""
    metric: str
    """A key of METRICS."""
    windows: int
    """Windows whose layers all have the score."""
    rho: Estimate
    """Spearman's rank correlation of the windows' mean score with their goodness: 1 if the higher the better."""
    p: float
    """Two-sided, over permutations of the layers."""


def worths(
    scores: Mapping[str, Mapping[int, float]],
    windows: Sequence[Sequence[int]],
    found: Outcomes,
    patients: int,
    seed: int,
) -> list[Worth]:
    """Every score (`layer_scores`) with every metric; `found` are the windows' metrics [1 + DRAWS, windows, seeds].

    A window's score is the mean over its layers. The interval draws patients and, in each draw, seeds. For the p value
    the layers' scores are dealt out anew before the windows' means are taken, since windows that overlap are alike
    anyway; a trend over depth in both is not taken out of it, hence the score `depth`. NaN for fewer than 3 windows, or
    where one of the two is the same in all windows.
    """
    rows = []
    for score, of_layer in scores.items():
        kept = [i for i, window in enumerate(windows) if set(window) <= set(of_layer)]
        if len(kept) < 3:
            rows += [Worth(score, metric, len(kept), UNDEFINED, np.nan) for metric in METRICS]
            continue
        means, null = (_centred_ranks(x) for x in _window_means(of_layer, [windows[i] for i in kept], seed))
        for metric in METRICS:
            good = goodness(found, metric)[:, kept]
            result = _centred_ranks(good[0].mean(1))
            rho = _cosine(means, result)
            if np.isnan(rho):
                rows.append(Worth(score, metric, len(kept), UNDEFINED, np.nan))
                continue
            drawn = _cosine(means, _centred_ranks(_seeds_drawn(good[1:], seed)))
            beyond = np.abs(_cosine(null, result))
            p = (1 + int((beyond >= abs(rho) - 1e-12).sum())) / (1 + int(np.isfinite(beyond).sum()))
            rows.append(Worth(score, metric, len(kept), percentiles(float(rho), drawn, patients), p))
    return rows


def rank_correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Spearman's rho over the last axis of [..., n] and [..., n], ties at their mean rank; NaN if one is constant."""
    return _cosine(_centred_ranks(a), _centred_ranks(b))


def _centred_ranks(values: FloatArray) -> FloatArray:
    """Ranks over the last axis, less their mean."""
    from scipy.stats import rankdata

    # Means of the same numbers in another order differ in their last digits.
    found = rankdata(np.round(values, 12), axis=-1)
    return found - found.mean(-1, keepdims=True)


def _cosine(x: FloatArray, y: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))


def _window_means(
    of_layer: Mapping[int, float], windows: Sequence[Sequence[int]], seed: int
) -> tuple[FloatArray, FloatArray]:
    """Mean score of every window [w], and the same with the layers' scores permuted [SHUFFLES, w]."""
    layers = sorted(of_layer)
    values = np.array([of_layer[layer] for layer in layers])
    member = np.array([[layer in window for layer in layers] for window in windows], float)
    member /= member.sum(1, keepdims=True)
    dealt = np.random.default_rng([seed, 31]).permuted(np.tile(values, (SHUFFLES, 1)), axis=1)
    return member @ values, dealt @ member.T


def _seeds_drawn(good: FloatArray, seed: int) -> FloatArray:
    """[draws, w, seeds] -> [draws, w]: in each draw the mean over as many seeds, drawn with replacement."""
    draws, _, seeds = good.shape
    times = np.random.default_rng([seed, 37]).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    return np.einsum("dws,ds->dw", good, times) / seeds
