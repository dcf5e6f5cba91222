"""The test of a range on the held-out half: what its layers make of the wording, and what their window patch does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.causal.answer_patching import AnswerPatches
from interp.causal.window_patching import WindowEffect
from interp.profile.profile import DRAWS, LayerEffects, answer_growth, blind_layers
from interp.profile.ranges import LayerRange
from interp.schemas.record import Interval
from interp.screening.flips import Flips
from interp.statistics import UNDEFINED, ratio_interval


class RangeTest(NamedTuple):
    """What a range does on held-out flips, as `interp.schemas.layers.RangeEntry` says."""

    share: Interval
    """Share of the answer that the range makes: growth of the answer patch over its layers / its largest net effect."""
    formed: Interval
    """The same share of the answers that differ because the image does: is this where every answer is made?"""
    arrived: Interval
    """Net recovery by the residual patch before it: is the difference of wording at the final token already?"""
    restored: Interval
    """Recovery by the window patch."""
    broken: Interval
    """Share of the shift that the original loses to the reversed window patch."""
    random_restored: Interval
    """Recovery by random directions of the same norm."""
    random_broken: Interval
    """The same by random directions of the same norm."""


def range_test(
    taken: LayerRange, window: WindowEffect, effects: LayerEffects, layers: Sequence[int], bank: Flips, seed: int
) -> RangeTest:
    """Test a range on the pairs of `bank`, the held-out flip bank; `layers` are those that are profiled."""
    size = np.abs(bank.margin_before - bank.margin_after)

    def recovered(effect: NDArray[np.float64]) -> Interval:
        return Interval.of(ratio_interval(effect, size, bank.pairs["patient"].tolist(), seed, DRAWS))

    return RangeTest(
        made_in(taken, effects.answers, layers, bank, seed),
        made_in(taken, effects.answers_by_image, layers, effects.by_image, seed),
        recovered(before) if (before := _before(taken, effects, layers)) is not None else Interval.of(UNDEFINED),
        *(recovered(each) for each in window),
    )


def _before(taken: LayerRange, effects: LayerEffects, layers: Sequence[int]) -> NDArray[np.float64] | None:
    """[n] net effect of the residual patch before a range makes an answer [logits].

    That is at the profiled layer below it, or at the last of its layers that no image has reached. Nothing is at the
    final token before layer 0; what is there below another first layer is unknown (None).
    """
    blind = blind_layers(effects.answers_by_image, effects.by_image)
    place, patches = max(layers.index(taken.first), min(blind, layers.index(taken.last))), effects.patches
    if place:
        return patches.along_shift(patches.residual - patches.random_residual)[:, place - 1]
    return np.zeros(len(patches.shift)) if layers[0] == 0 else None


def made_in(taken: LayerRange, answers: AnswerPatches, layers: Sequence[int], pairs: Flips, seed: int) -> Interval:
    """Share of the answers of some pairs that a range makes: growth of the answer patch / its largest net effect."""
    if not len(pairs.pairs):
        return Interval.of(UNDEFINED)
    grown = answer_growth(answers, layers)
    held = sum((grown[layer] for layer in taken.layers if layer in grown), np.zeros(len(pairs.pairs)))
    net = answers.answer - answers.random
    whole = net[:, int(net.sum(0).argmax())]
    return Interval.of(ratio_interval(held, whole, pairs.pairs["patient"].tolist(), seed, DRAWS))
