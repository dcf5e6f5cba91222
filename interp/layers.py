"""Ranges of layers: taken from a layer profile by rule, or given as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from interp.errors import InputError

Rule = Literal["write", "rise", "level"]
Profile = Literal["write", "auc", "recovery", "net"]
Module = Literal["attention", "mlp"]
"""The two parts of a decoder layer that add to the residual stream."""


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


def listed_layers(text: str) -> list[int] | None:
    """Layers of `15-19` or `9,17,22`, ascending; None for `all`. Raises InputError for anything else."""
    if text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part, re.ASCII)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if first > last:
            raise InputError(f"--layers {text!r}: expected 'all', a range as 15-19, or a list as 9,17,22.")
        layers |= set(range(first, last + 1))
    return sorted(layers)


def parse_layers(text: str, available: Sequence[int], n_layers: int) -> list[int]:
    """Layers as `listed_layers`, all of which must be in `available` and below `n_layers`; else InputError."""
    layers = listed_layers(text)
    if layers is None:
        return sorted(available)
    if layers[-1] >= n_layers:
        raise InputError(f"--layers {text!r}: the model has layers 0 to {n_layers - 1}.")
    absent = sorted(set(layers) - set(available))
    if absent:
        raise InputError(
            f"--layers {text!r}: no SAE for layer {', '.join(map(str, absent))}; found {sorted(available)}."
        )
    return layers


def layers_text(layers: Sequence[int]) -> str:
    """Ascending layers in short: 4, or 15-19, or 0-1, 5."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
