"""A feature's patch pair by pair, by PSF-Med's definitions (arXiv 2602.21428): averages over pairs, not over logits."""

import numpy as np
from numpy.typing import NDArray

from interp.causal.feature_patching import FeaturePatch
from interp.causal.layer_patching import PatchTarget
from interp.schemas.record import interval_of
from interp.schemas.study import PairEffects
from interp.statistics import FloatArray, mean_interval
from interp.storage.json_files import significant

HALF = 0.5
"""Recovery above which a pair counts as recovered in the published figure."""


def pair_effects(
    bank: PatchTarget, effect: NDArray[np.float64], patch: FeaturePatch, unflipped: PatchTarget, seed: int
) -> PairEffects:
    """The published figures on a feature's patch, given its effect m(p') - m(p) [flips, logits] on the banked flips.

    The patch is also tried on pairs that do not flip, where it should change nothing.
    """
    recovery = effect / bank.shift
    changed = np.zeros(0)
    if len(unflipped.flips.pairs):
        delta = -patch.unflipped[:, None, None] * patch.directions[0]
        changed = np.abs(unflipped.effect([patch.layer], delta, "unflipped pairs")[:, 0])
    return PairEffects(
        recovery=interval_of(mean_interval(recovery, bank.patients, seed)),
        cohens_d=significant(one_sample_d(recovery)),
        above_half=int((recovery > HALF).sum()),
        unflipped_change=interval_of(mean_interval(changed, unflipped.patients, seed)),
    )


def one_sample_d(values: FloatArray) -> float:
    """Cohen's d of values [n] against zero: mean / standard deviation; NaN for fewer than two, or equal ones.

    The publication gives a d of 1.24 without its definition; with its interval of the mean this one would be near it.
    """
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean() / spread) if spread > 0 else float("nan")
