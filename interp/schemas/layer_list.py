"""Layers as text: a range as 15-19, a list as 9,17, or all."""

import re
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral

from interp.runtime.errors import InputError


def listed_layers(text: str, name: str = "--layers") -> list[int] | None:
    """Read `15-19` or `9,17,22` as ascending layers, and `all` as None.

    Raises InputError for anything else; `name` is how it calls the option or parameter.
    """
    if text == "all":
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part, re.ASCII)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if first > last:
            raise InputError(f"{name} {text!r}: expected 'all', a range as 15-19, or a list as 9,17,22.")
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


def given_layers(layers: str | Iterable[int] | None) -> list[int] | None:
    """The parameter `layers` of a function, text as for `listed_layers` or numbers, in ascending order; None means all.

    Raises InputError if it is neither, or empty.
    """
    if layers is None or isinstance(layers, str):
        return None if layers is None else listed_layers(layers, "layers")
    if not isinstance(layers, Iterable):
        raise InputError(f"layers is {layers!r}, expected a list as [9, 17], a text as '15-19', or None for all.")
    found = list(layers)
    for layer in found:
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise InputError(f"layers holds {layer!r}, expected whole numbers as [9, 17], or a text as '15-19'.")
    if not found:
        raise InputError("layers is empty. Give layers as [9, 17] or '15-19', or None for all that have an SAE.")
    return sorted({int(layer) for layer in found})


def check_layers(layers: Sequence[int], available: Collection[int], n_layers: int) -> None:
    """Raise InputError for a layer that the model does not have, that is not in `available`, or if there is none."""
    if not layers:
        raise InputError(f"layers is empty. Give layers from 0 to {n_layers - 1}.")
    beyond = [layer for layer in layers if not 0 <= layer < n_layers]
    if beyond:
        raise InputError(f"layer {beyond[0]}: the model has layers 0 to {n_layers - 1}.")
    absent = [layer for layer in layers if layer not in available]
    if absent:
        raise InputError(f"layer {absent[0]}: found no SAE of it, only of {layers_text(sorted(available)) or 'none'}.")


def layers_text(layers: Sequence[int]) -> str:
    """Write ascending layers in short: 4, or 15-19, or 0-1, 5."""
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs_of(layers))


def runs_of(layers: Sequence[int]) -> list[list[int]]:
    """Ascending layers in runs of adjacent ones."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs
