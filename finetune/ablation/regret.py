"""What the choice of the range cost: the chosen range beside the other windows of its width."""

from typing import NamedTuple

import numpy as np

from finetune.ablation.metrics import METRICS, Outcomes, Sums, drawn_patients, estimate, outcomes
from interp.statistics import Estimate, FloatArray

SPLITS = 10
"""Times that the patients are halved."""


class Regret(NamedTuple):
    """By how much the best window beats the chosen range, in the unit of the metric; below 0 it does not."""

    metric: str
    """A key of METRICS."""
    best: int
    """Index of the window that is best on all the data, the first of equals."""
    optimistic: float
    """How much better it is there: at least 0, and above 0 by luck alone wherever the windows are equal."""
    regret: Estimate
    """How much better the windows that were best on the other patients, and with the other seeds, are."""
    of_windows: list[Estimate]
    """The same, had each of the windows been chosen."""
    of_chance: Estimate
    """The same for a window taken at random: the mean over all."""
    picked: FloatArray
    """[windows] how often each was best there: shares that sum to 1; NaN where the metric is undefined."""


class Rank(NamedTuple):
    """The place of one window among all, 1 being best; a range where it is tied."""

    first: int
    """1 + the number of windows that are shown to be better."""
    last: int
    """The number of windows less those that are shown to be worse."""


def goodness(found: Outcomes, metric: str) -> FloatArray:
    """A metric of the arms [d, arms, seeds] with the sign that makes more better."""
    return METRICS[metric] * found.arms[metric]


def ranks(good: FloatArray, patients: int) -> list[Rank]:
    """The place of each of w windows by their goodness [1 + DRAWS, w, seeds].

    Two windows are tied if the 95% interval of their paired difference includes 0 or does not exist; one is shown to be
    better if it lies above. Not adjusted for the number of couples.
    """
    count = good.shape[1]
    better, worse = np.zeros(count, int), np.zeros(count, int)
    for a in range(count):
        for b in range(a + 1, count):
            apart = estimate(good[:, a] - good[:, b], patients)
            for winner, loser, shown in ((a, b, apart.low > 0), (b, a, apart.high < 0)):
                better[loser] += shown
                worse[winner] += shown
    return [Rank(1 + int(above), count - int(below)) for above, below in zip(better, worse, strict=True)]


def regrets(windows: Sums, chosen: int, patients: int, seed: int) -> list[Regret]:
    """The regret of window number `chosen` in every metric; `windows` are the arms to choose among, it too.

    The best of several windows looks better than it is, so it is chosen on one half of the patients and measured on the
    other, and the reverse, for SPLITS random halvings, averaged. With several seeds it is chosen with all but one of
    them and measured with that one. Windows that are best together count equally. The interval repeats all of this
    in every bootstrap draw of the patients; the halves are of patients, so that nobody is in both.
    """
    weights = drawn_patients(patients, seed)
    whole = outcomes(windows, np.ones((1, patients)))
    n_windows, seeds = whole.arms["accuracy"].shape[1:]
    rng = np.random.default_rng([seed, 29])
    lost = {metric: np.zeros((len(weights), n_windows, seeds)) for metric in METRICS}
    picked = {metric: np.zeros(n_windows) for metric in METRICS}
    for _ in range(SPLITS):
        inside = np.zeros(patients)
        inside[rng.permutation(patients)[: patients // 2]] = 1
        halves = [outcomes(windows, weights * half) for half in (inside, 1 - inside)]
        for choosing, measuring in (halves, halves[::-1]):
            for metric in METRICS:
                share, gap = _held_out(goodness(choosing, metric), goodness(measuring, metric))
                lost[metric] += gap / (2 * SPLITS)
                picked[metric] += share / (2 * SPLITS)
    found = []
    for metric in METRICS:
        mean = goodness(whole, metric)[0].mean(1)
        best = int(np.argmax(np.where(np.isnan(mean), -np.inf, mean)))
        apart = float(mean[best] - mean[chosen])
        of_windows = [estimate(lost[metric][:, w], patients) for w in range(n_windows)]
        chance = estimate(lost[metric].mean(1), patients)
        found.append(Regret(metric, best, apart, of_windows[chosen], of_windows, chance, picked[metric]))
    return found


def _held_out(choosing: FloatArray, measuring: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Goodness [d, w, seeds] of two halves -> share of the first weighting's picks [w], and every window's regret."""
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
