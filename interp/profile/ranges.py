"""Ranges of layers: taken from a layer profile by rule, or given as text."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from interp.schemas.layers import Profile, ProfileEntry, Rule


class LayerRange(NamedTuple):
    """Consecutive layers taken from a profile."""

    first: int
    """First layer."""
    last: int
    """Last layer, included."""
    peak: int
    """Of its layers the one with the highest score."""

    @property
    def layers(self) -> list[int]:
        """Every layer of the range."""
        return list(range(self.first, self.last + 1))


def level_range(profile: Mapping[int, float], tolerance: float = 0.1, max_width: int = 5) -> LayerRange:
    """The paper's rule: the peak, extended while the score stays within a relative `tolerance` of it.

    Profiled layers need not be consecutive; the range spans from the first to the last one kept and never exceeds
    `max_width` layers. Of two candidates at the border the higher-scoring one is taken first. On the published profile
    {10: .58, 13: .64, 15: .72, 17: .76, 19: .73, 22: .65, 25: .59} it gives 15-19 (arXiv 2603.00148, section 4).
    """
    layers = sorted(profile)
    peak = max(layers, key=lambda layer: profile[layer])
    floor = profile[peak] - tolerance * abs(profile[peak]) - 1e-9
    low = high = layers.index(peak)
    while True:
        options = [i for i in (low - 1, high + 1) if 0 <= i < len(layers) and profile[layers[i]] >= floor]
        options = [i for i in options if layers[max(high, i)] - layers[min(low, i)] + 1 <= max_width]
        if not options:
            return LayerRange(layers[low], layers[high], peak)
        best = max(options, key=lambda i: profile[layers[i]])
        low, high = min(low, best), max(high, best)


def growth_range(growth: Mapping[int, float], share: float = 0.75, max_width: int = 5) -> LayerRange:
    """The shortest run of layers that holds `share` of everything that is added anywhere.

    `growth` maps each layer to what it adds: the net recovery of its write patch (rule `write`), or the growth of the
    layer patch's net recovery, R(L) - R(L - 1) (rule `rise`). Layers that take away count as nothing in the whole.
    Profiled layers need not be consecutive; a run spans from its first to its last one and never exceeds `max_width`
    layers. Of equally short runs the one that holds most is taken; if none holds the share, of those that can not be
    longer the one that holds most. The ends are trimmed of layers that add nothing. Raises ValueError without layers.
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
        if layers[high] - layers[low] < max_width
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
    """Intersection over union of two sets of layers."""
    a, b = set(found), set(planted)
    return len(a & b) / len(a | b) if a | b else 1.0


OWN_PROFILE: dict[Rule, Profile] = {"write": "write", "rise": "recovery", "level": "auc"}
"""What each rule reads where nothing else is asked for."""


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
