"""Ranges of layers: the rules that take them from a layer profile."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from interp.schemas.layers import ProfileEntry
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


def growth_range(growth: Mapping[int, float], share: float = 0.75, max_layers: int = 5) -> LayerRange:
    """Take the shortest run of layers that holds `share` of everything that any layer adds.

    `growth` maps each layer to what it adds: the growth of the answer patch's net recovery (rule `answer`) or of the
    residual patch's (rule `growth`), or the net recovery of its direct-effect patch (rule `write`). Negative values
    count as zero in the total.
    Profiled layers need not be consecutive. A run spans from its first to its last layer and never exceeds `max_layers`
    layers. Of equally short runs, the one that holds most is taken. If no run holds the share, the one that holds most
    is taken from the runs that cannot be extended. Layers at the ends that add nothing are cut off. Raises ValueError
    if `growth` is empty.
    """
    layers = sorted(growth)
    if not layers:
        raise ValueError("the profile has no layers")
    values = np.array([growth[layer] for layer in layers])
    needed = share * values.clip(min=0).sum()
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


def ranges_of(profile: Sequence[ProfileEntry], answer: Mapping[int, float], max_layers: int) -> dict[Rule, LayerRange]:
    """The range that each rule takes from the score on which it is defined; an undefined score counts as zero.

    `answer` maps layers to the growth of the answer patch's net recovery on the selection half; so the held-out half
    can test the range of this rule. The other rules read the profile, which is that of the held-out half.

    `write` reads the net recovery of the direct-effect patch, `growth` the growth of the net recovery of the residual
    patch from one profiled layer to the next, and `near-peak` the flip AUC, as published. Recovery is zero before layer
    0. Where the profile begins later, its first layer has no growth, since what it recovers may come from any layer
    below it.
    """
    layers = [p.layer for p in profile]
    write = [p.net_write.value or 0.0 for p in profile]
    residual = [(p.recovery.value or 0.0) - (p.random_patch.value or 0.0) for p in profile]
    growth = dict(zip(layers, np.diff(residual, prepend=0.0).tolist(), strict=True))
    if layers[0] > 0 and len(layers) > 1:
        del growth[layers[0]]
    flip_auc = [p.flip_auc.value or 0.0 for p in profile]
    return {
        "answer": growth_range(answer, max_layers=max_layers),
        "write": growth_range(dict(zip(layers, write, strict=True)), max_layers=max_layers),
        "growth": growth_range(growth, max_layers=max_layers),
        "near-peak": near_peak_range(dict(zip(layers, flip_auc, strict=True)), max_layers=max_layers),
    }
