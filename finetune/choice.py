"""Which layers to train: by hand, or from the `layers.json` that `interp` wrote about this very model."""

from pathlib import Path
from typing import NamedTuple

from interp.artifact import Layers, read_layers
from interp.errors import InputError
from interp.layers import parse_layers
from interp.vlm import Vlm


class Choice(NamedTuple):
    """Layers to train and why these."""

    layers: list[int]
    """Decoder layers, ascending."""
    source: str
    """The option or the file and rule that named them."""


def choose_layers(vlm: Vlm, text: str | None, path: Path | None) -> Choice:
    """Layers from `text` (`all`, `15-19`, `9,17`) or from the layers.json at `path`: exactly one of the two.

    Raises InputError for layers that `vlm` does not have, and as `from_file`.
    """
    if (text is None) == (path is None):
        raise InputError(
            "Give either --layers (as 15-19, or 9,17, or all) or --layers-from layers.json, one of the two."
        )
    if text is not None:
        return Choice(parse_layers(text, range(vlm.n_layers), vlm.n_layers), f"--layers {text}")
    assert path is not None
    return from_file(vlm, read_layers(path), path)


def from_file(vlm: Vlm, found: Layers, path: Path) -> Choice:
    """The range in a layers.json. Raises InputError if no gate was found, or if another model was studied."""
    if found.verdict != "gate found":
        raise InputError(
            f"{path}: the verdict is {found.verdict!r} ({found.reason.rstrip('.')}), so there is nothing to aim at. "
            "To train all the same, give layers by hand with --layers."
        )
    studied = (found.model.id, found.model.n_layers, found.model.d_model)
    given = (vlm.name, vlm.n_layers, vlm.d_model)
    if studied != given:
        raise InputError(
            f"{path}: made on {_described(*studied)}, but the model here is {_described(*given)}. "
            "Give --model the one that was studied, or run `interp find-features` on this one."
        )
    return Choice(sorted(found.layers), f"{path.name}, rule {found.rule}, questions {found.data.fingerprint}")


def _described(name: str, n_layers: int, d_model: int) -> str:
    return f"{name} ({n_layers} layers of width {d_model})"
