"""Whether the layer profile was worth choosing by: its rank correlation with what the windows came to."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune.ablate.outcomes import METRICS, Outcomes
from finetune.ablate.regret import goodness
from interp.artifact import Interval, ProfileEntry
from interp.statistics import Estimate, FloatArray, percentiles

SHUFFLES = 5000
"""Permutations of the layers behind a p value."""
UNDEFINED = Estimate(np.nan, np.nan, np.nan)


DEPTH = "depth"


def _net(value: Interval, control: Interval) -> float | None:
    return None if value.value is None or control.value is None else value.value - control.value


SCORES: dict[str, Callable[[ProfileEntry], float | None]] = {
    "flip AUC": lambda layer: layer.flip_auc.value,
    "recovery, net": lambda layer: _net(layer.recovery, layer.control),
    "write, net": lambda layer: layer.net_write.value,
    "joint, net": lambda layer: layer.net_joint.value if layer.net_joint else None,
    DEPTH: lambda layer: float(layer.layer),
}
"""Name -> score of a layer in layers.json. Depth, the layer's number, is what every other score has to beat."""


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
    profile: Sequence[ProfileEntry], windows: Sequence[Sequence[int]], found: Outcomes, patients: int, seed: int
) -> list[Worth]:
    """Every score with every metric; `found` are the windows' metrics [1 + DRAWS, windows, seeds].

    A window's score is the mean over its layers. The interval draws patients and, in each draw, seeds. For the p value
    the layers' scores are dealt out anew before the windows' means are taken, since windows that overlap are alike
    anyway; a trend over depth in both is not taken out of it, hence the score `depth`. NaN for fewer than 3 windows, or
    where one of the two is the same in all windows.
    """
    rows = []
    for score, read in SCORES.items():
        of_layer = {entry.layer: value for entry in profile if (value := read(entry)) is not None}
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
