"""Layers as text: a range as 15-19, a list as 9,17, or all."""

import re
from collections.abc import Sequence

from interp.runtime.errors import InputError


def listed_layers(text: str) -> list[int] | None:
    """Read `15-19` or `9,17,22` as ascending layers, and `all` as None. Raises InputError for anything else."""
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
    """Read layers as `listed_layers` does; `all` means those in `available`.

    Raises InputError for a layer that is not in `available`, or not below `n_layers`.
    """
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
    """Write ascending layers in short: 4, or 15-19, or 0-1, 5."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
