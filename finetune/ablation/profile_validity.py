"""Whether the layer profile predicts which windows train well: its rank correlation with the windows' results."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune.ablation.metrics import METRICS, WeightedMetrics
from finetune.ablation.regret import goodness
from finetune.training.sensitivity import Sensitivity
from interp.schemas.layers import ProfileEntry
from interp.schemas.record import Interval
from interp.statistics import Estimate, FloatArray, percentiles, spearman

SHUFFLES = 5000
"""Number of permutations of the layers for a p value."""
UNDEFINED = Estimate(np.nan, np.nan, np.nan)
DEPTH = "depth"
"""The score of a layer that is its own number; every other score has to beat it."""


def _net(value: Interval | None, control: Interval | None) -> float | None:
    if value is None or control is None or value.value is None or control.value is None:
        return None
    return value.value - control.value


PROFILE_SCORES: dict[str, Callable[[ProfileEntry], float | None]] = {
    "flip AUC": lambda layer: layer.flip_auc.value,
    "recovery, net": lambda layer: _net(layer.recovery, layer.random_patch),
    "write, net": lambda layer: layer.net_write.value,
    "answer growth": lambda layer: layer.answer_growth.value if layer.answer_growth else None,
    "answer, net": lambda layer: _net(layer.answer, layer.random_answer),
    "register, net": lambda layer: _net(layer.register_patch, layer.random_register),
}
"""Name -> score of a layer in layers.json: those that the rules near-peak, growth, write and answer read, and the level
of the answer and register patches. The share of the answer that a layer makes is its growth divided by one number for
all layers, so it ranks windows as the growth does."""
LAYER_SCORES = (*PROFILE_SCORES, "gradient norm", "Fisher", DEPTH)
"""Names of all scores of a layer."""


def layer_scores(profile: Sequence[ProfileEntry], sensitivities: Sequence[Sensitivity]) -> dict[str, dict[int, float]]:
    """Return score -> layer -> value, for the layers that have one.

    The gradient norm and the Fisher trace of a layer are those of its two modules together.
    """
    scores = {
        name: {entry.layer: value for entry in profile if (value := read(entry)) is not None}
        for name, read in PROFILE_SCORES.items()
    }
    squared_norm: dict[int, float] = {}
    fisher: dict[int, float] = {}
    for each in sensitivities:
        squared_norm[each.layer] = squared_norm.get(each.layer, 0.0) + each.gradient**2
        fisher[each.layer] = fisher.get(each.layer, 0.0) + each.fisher
    scores["gradient norm"] = {layer: float(np.sqrt(square)) for layer, square in squared_norm.items()}
    scores["Fisher"] = fisher
    return scores | {DEPTH: {entry.layer: float(entry.layer) for entry in profile}}


def picked_window(of_layer: Mapping[int, float], windows: Sequence[Sequence[int]], score: str) -> int | None:
    """Return the index of the window that a score would choose: that of the highest mean over its layers.

    Ties go to the first window. Depth chooses the earliest window, as one would without any search. None if a layer of
    any window lacks the score.
    """
    if any(layer not in of_layer for window in windows for layer in window):
        return None
    means = np.round([np.mean([of_layer[layer] for layer in window]) for window in windows], 12)
    return int(np.argmax(-means if score == DEPTH else means))


class ProfileValidity(NamedTuple):
    """How well one score of the layers predicts one metric of the windows."""

    score: str
    """Name of the score, one of LAYER_SCORES."""
    metric: str
    """Name of the metric, a key of METRICS."""
    windows: int
    """Number of windows all of whose layers have the score."""
    rho: Estimate
    """Spearman's rank correlation of the windows' mean score with their goodness; positive if higher scores go with
    better results."""
    p: float
    """Two-sided p value, from permutations of the layers."""


def profile_validity(
    scores: Mapping[str, Mapping[int, float]],
    windows: Sequence[Sequence[int]],
    metrics: WeightedMetrics,
    patients: int,
    seed: int,
) -> list[ProfileValidity]:
    """Correlate every score (`layer_scores`) with every metric of the windows [1 + DRAWS, windows, seeds].

    A window's score is the mean over its layers. The interval draws patients and, in each draw, seeds. The p value
    permutes the scores among the layers before it takes the windows' means, because overlapping windows are similar
    under any scores. It does not remove a trend over depth that both share, so DEPTH is a score too. NaN for fewer than
    3 windows, and where the score or the metric is the same in all windows.
    """
    rows = []
    for score, of_layer in scores.items():
        scored = [i for i, window in enumerate(windows) if set(window) <= set(of_layer)]
        if len(scored) < 3:
            rows += [ProfileValidity(score, metric, len(scored), UNDEFINED, np.nan) for metric in METRICS]
            continue
        means, null = (_rounded(x) for x in _window_means(of_layer, [windows[i] for i in scored], seed))
        for metric in METRICS:
            good = goodness(metrics, metric)[:, scored]
            result = _rounded(good[0].mean(1))
            rho = spearman(means, result)
            if np.isnan(rho):
                rows.append(ProfileValidity(score, metric, len(scored), UNDEFINED, np.nan))
                continue
            drawn = spearman(_rounded(_draw_seeds(good[1:], seed)), means)
            null_rho = np.abs(spearman(null, result))
            p = (1 + int((null_rho >= abs(rho) - 1e-12).sum())) / (1 + int(np.isfinite(null_rho).sum()))
            rows.append(ProfileValidity(score, metric, len(scored), percentiles(float(rho), drawn, patients), p))
    return rows


def _rounded(values: FloatArray) -> FloatArray:
    """Round so that ties stay ties: sums of the same numbers in another order differ in their last digits."""
    return np.round(values, 12)


def _window_means(
    of_layer: Mapping[int, float], windows: Sequence[Sequence[int]], seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return every window's mean score [w], and the same after the layers' scores are permuted [SHUFFLES, w]."""
    layers = sorted(of_layer)
    values = np.array([of_layer[layer] for layer in layers])
    member = np.array([[layer in window for layer in layers] for window in windows], float)
    member /= member.sum(1, keepdims=True)
    permuted = np.random.default_rng([seed, 31]).permuted(np.tile(values, (SHUFFLES, 1)), axis=1)
    return member @ values, permuted @ member.T


def _draw_seeds(good: FloatArray, seed: int) -> FloatArray:
    """Average [draws, w, seeds] over seeds, drawn with replacement anew in each draw: [draws, w]."""
    draws, _, seeds = good.shape
    times = np.random.default_rng([seed, 37]).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    return np.einsum("dws,ds->dw", good, times) / seeds
