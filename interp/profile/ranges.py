"""Ranges of layers: the rules that take them from a layer profile."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.schemas.rules import Rule


class LayerRange(NamedTuple):
    """Consecutive layers taken from a profile."""

    first: int
    """First layer."""
    last: int
    """Last layer, included."""
    peak: int
    """Layer with the highest score in the range."""

    @property
    def layers(self) -> list[int]:
        """Every layer of the range, ascending."""
        return list(range(self.first, self.last + 1))


def near_peak_range(profile: Mapping[int, float], tolerance: float = 0.1, max_layers: int = 5) -> LayerRange:
    """Take the layer with the highest score, extended while the score stays within a relative `tolerance` of it.

    This is the published rule (arXiv 2603.00148, section 4): on the published profile {10: .58, 13: .64, 15: .72,
    17: .76, 19: .73, 22: .65, 25: .59} it takes 15-19. Profiled layers need not be consecutive. The range spans from
    the first to the last layer taken and never exceeds `max_layers` layers. Of the two layers at its ends, the one with
    the higher score is taken first.
    """
    layers = sorted(profile)
    peak = max(layers, key=lambda layer: profile[layer])
    floor = profile[peak] - tolerance * abs(profile[peak]) - 1e-9
    low = high = layers.index(peak)
    while True:
        options = [i for i in (low - 1, high + 1) if 0 <= i < len(layers) and profile[layers[i]] >= floor]
        options = [i for i in options if layers[max(high, i)] - layers[min(low, i)] + 1 <= max_layers]
        if not options:
            return LayerRange(layers[low], layers[high], peak)
        best = max(options, key=lambda i: profile[layers[i]])
        low, high = min(low, best), max(high, best)


def growth_range(
    growth: Mapping[int, float], share: float = 0.75, max_layers: int = 5, whole: float | None = None
) -> LayerRange:
    """Take the shortest run of layers that holds `share` of the `whole`.

    `growth` maps each layer to what it adds: the growth of the answer patch's net recovery (rule `answer`) or of the
    residual patch's (rule `growth`), or the net recovery of its direct-effect patch (rule `write`). `whole` is by
    default the sum of everything that any layer adds, without what layers take away. Profiled layers need not be
    consecutive. A run spans from its first to its last layer and never exceeds `max_layers` layers. Of equally short
    runs, the one that holds most is taken. If no run holds the share, the one that holds most is taken from the runs
    that cannot be extended. Layers at the ends that add nothing are cut off. Raises ValueError
    if `growth` is empty.
    """
    layers = sorted(growth)
    if not layers:
        raise ValueError("the profile has no layers")
    values = np.array([growth[layer] for layer in layers])
    needed = share * (values.clip(min=0).sum() if whole is None else whole)
    runs = [
        (low, high)
        for low in range(len(layers))
        for high in range(low, len(layers))
        if layers[high] - layers[low] < max_layers
    ]
    held = {(low, high): float(values[low : high + 1].sum()) for low, high in runs}
    enough = [run for run in runs if held[run] >= needed]
    longest = [(low, high) for low, high in runs if (low - 1, high) not in held and (low, high + 1) not in held]
    low, high = (
        min(enough, key=lambda run: (layers[run[1]] - layers[run[0]], -held[run]))
        if enough
        else max(longest, key=lambda run: held[run])
    )
    while low < high and values[low] <= 0:
        low += 1
    while low < high and values[high] <= 0:
        high -= 1
    return LayerRange(layers[low], layers[high], layers[low + int(values[low : high + 1].argmax())])


def overlap(found: Sequence[int], planted: Sequence[int]) -> float:
    """Intersection over union of two sets of layers; 1 if both are empty."""
    a, b = set(found), set(planted)
    return len(a & b) / len(a | b) if a | b else 1.0


class RangeScores(NamedTuple):
    """What the rules take their ranges from: one number for each profiled layer."""

    answer: NDArray[np.float64]
    """[layers]: net recovery of the answer patch, selection half."""
    residual: NDArray[np.float64]
    """[layers]: net recovery of the residual patch, selection half."""
    write: NDArray[np.float64]
    """[layers]: net recovery of the direct-effect patch, selection half."""
    flip_auc: NDArray[np.float64]
    """[layers]: flip AUC of the features that the selection half chose, held-out half, as published."""
    blind: int
    """Number of the first layers at whose final token no image has arrived (`interp.profile.profile.blind_layers`).

    It is measured by exchanging images of patients of the held-out half under the same words, so no flip enters it.
    """


def ranges_of(layers: Sequence[int], scores: RangeScores, max_layers: int) -> dict[Rule, LayerRange]:
    """The range that each rule takes from the score on which it is defined.

    `answer` and `growth` read the growth of the answer and of the residual patch from one profiled layer to the next,
    `write` the direct-effect patch, and `near-peak` the flip AUC.
    """
    write, flip_auc = (dict(zip(layers, each.tolist(), strict=True)) for each in (scores.write, scores.flip_auc))
    return {
        "answer": answer_range(layers, scores.answer, scores.blind, max_layers),
        "write": growth_range(write, max_layers=max_layers),
        "growth": growth_range(growth_of(layers, scores.residual), max_layers=max_layers),
        "near-peak": near_peak_range(flip_auc, max_layers=max_layers),
    }


def answer_range(layers: Sequence[int], net: NDArray[np.float64], blind: int, max_layers: int = 5) -> LayerRange:
    """Take the shortest run of layers that holds 75% of the largest of the answer patch's `net` recoveries [layers].

    At the first `blind` layers no image has arrived at the final token, so there the patch cannot show an answer. A
    range that begins with the next layer may have been made in them, too, and begins with the first of them, unless it
    would then exceed `max_layers`.
    """
    taken = growth_range(growth_of(layers, net), max_layers=max_layers, whole=float(max(net.max(), 0.0)))
    if 0 < blind < len(layers) and taken.first == layers[blind] and taken.last - layers[0] < max_layers:
        return taken._replace(first=layers[0])
    return taken


def growth_of(layers: Sequence[int], net: NDArray[np.float64]) -> dict[int, float]:
    """Layer -> growth of a net recovery [layers] since the profiled layer below.

    Recovery is zero before layer 0. Where the profile begins later, its first layer has no growth, since what it
    recovers may come from any layer below it.
    """
    grown = dict(zip(layers, np.diff(net, prepend=0.0).tolist(), strict=True))
    if layers[0] > 0 and len(layers) > 1:
        del grown[layers[0]]
    return grown
