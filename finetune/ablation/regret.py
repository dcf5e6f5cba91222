"""What the choice of the range cost: the chosen range compared with the other windows of its width."""

from typing import NamedTuple

import numpy as np

from finetune.ablation.metrics import (
    METRICS,
    PatientTotals,
    WeightedMetrics,
    mean_over_seeds,
    patient_weights,
    weighted_metrics,
)
from interp.statistics import Estimate, FloatArray

SPLITS = 10
"""Number of random halvings of the patients."""


class WindowRegret(NamedTuple):
    """By how much the best window beats the chosen range, in the metric's unit; negative if it does not."""

    metric: str
    """Name of the metric, a key of METRICS."""
    best: int
    """Index of the window that is best on all the data, the first of equals."""
    optimistic: float
    """How much better that window is on the same data. It is at least 0, and above 0 by luck even if all are equal."""
    regret: Estimate
    """How much better the windows are that were best on the other patients and with the other seeds."""
    of_windows: list[Estimate]
    """[windows] regret of each window, as if it were the chosen one."""
    of_chance: Estimate
    """Regret of a window picked at random: the mean over all windows."""
    picked: FloatArray
    """[windows] how often each window was the best one, as shares that sum to 1; NaN if the metric is undefined."""


class RankRange(NamedTuple):
    """The place of one window among all, 1 being best; a range of places if it is tied with others."""

    first: int
    """1 + the number of windows shown to be better."""
    last: int
    """The number of windows minus the number shown to be worse."""


def goodness(metrics: WeightedMetrics, metric: str) -> FloatArray:
    """Return a metric of the arms [d, arms, seeds], with its sign set so that more is better."""
    return METRICS[metric] * metrics.arms[metric]


def rank_windows(good: FloatArray, patients: int) -> list[RankRange]:
    """Return the place of each of w windows by their goodness [1 + DRAWS, w, seeds].

    One window is shown to be better than another if the 95% interval of their paired difference lies above 0; two are
    tied if it includes 0 or is undefined. Nothing is adjusted for the number of comparisons.
    """
    count = good.shape[1]
    better, worse = np.zeros(count, int), np.zeros(count, int)
    for a in range(count):
        for b in range(a + 1, count):
            difference = mean_over_seeds(good[:, a] - good[:, b], patients)
            for winner, loser, shown in ((a, b, difference.low > 0), (b, a, difference.high < 0)):
                better[loser] += shown
                worse[winner] += shown
    return [RankRange(1 + int(above), count - int(below)) for above, below in zip(better, worse, strict=True)]


def regrets(windows: PatientTotals, chosen: int, patients: int, seed: int) -> list[WindowRegret]:
    """Return the regret of window number `chosen` in every metric; `windows` holds all windows, the chosen one too.

    A window that is best on some data looks better there than it is. Therefore the best window is selected on one half
    of the patients and measured on the other half, both ways, and the result is the mean over SPLITS random halvings.
    With several seeds, it is selected with all seeds but one and measured with that one. Windows that tie for the best
    count equally. Every bootstrap draw of the patients repeats all of this for the interval; no patient is in both
    halves of a draw.
    """
    weights = patient_weights(patients, seed)
    whole = weighted_metrics(windows, np.ones((1, patients)))
    n_windows, seeds = whole.arms["accuracy"].shape[1:]
    rng = np.random.default_rng([seed, 29])
    lost = {metric: np.zeros((len(weights), n_windows, seeds)) for metric in METRICS}
    picked = {metric: np.zeros(n_windows) for metric in METRICS}
    for _ in range(SPLITS):
        inside = np.zeros(patients)
        inside[rng.permutation(patients)[: patients // 2]] = 1
        halves = [weighted_metrics(windows, weights * half) for half in (inside, 1 - inside)]
        for choosing, measuring in (halves, halves[::-1]):
            for metric in METRICS:
                share, gap = _held_out_gaps(goodness(choosing, metric), goodness(measuring, metric))
                lost[metric] += gap / (2 * SPLITS)
                picked[metric] += share / (2 * SPLITS)
    found = []
    for metric in METRICS:
        mean = goodness(whole, metric)[0].mean(1)
        best = int(np.argmax(np.where(np.isnan(mean), -np.inf, mean)))
        optimistic = float(mean[best] - mean[chosen])
        of_windows = [mean_over_seeds(lost[metric][:, w], patients) for w in range(n_windows)]
        chance = mean_over_seeds(lost[metric].mean(1), patients)
        found.append(WindowRegret(metric, best, optimistic, of_windows[chosen], of_windows, chance, picked[metric]))
    return found


def _held_out_gaps(choosing: FloatArray, measuring: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Select the best windows on one half and measure all on the other; both are goodness [d, w, seeds].

    Returns how often each window is selected in the first weighting [w], and by how much the selected ones beat each
    window [d, w, seeds].
    """
    seeds = choosing.shape[2]
    share = np.zeros(choosing.shape[1])
    gap = np.empty(choosing.shape)
    for s in range(seeds):
        others = [k for k in range(seeds) if k != s] or [s]
        mean = choosing[:, :, others].mean(2)
        # Sums in another order differ in their last digits.
        best = mean >= mean.max(1, keepdims=True) - 1e-12
        with np.errstate(invalid="ignore", divide="ignore"):
            chance = best / best.sum(1, keepdims=True)
        gap[:, :, s] = (chance * measuring[:, :, s]).sum(1)[:, None] - measuring[:, :, s]
        share += chance[0] / seeds
    return share, gap
