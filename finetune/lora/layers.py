"""Which layers to train: named by hand, or taken from the `layers.json` that `interp` wrote about this very model."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from interp.model.memory_jobs import Job, training
from interp.model.vlm import Vlm
from interp.runtime.arguments import expect_one_of
from interp.runtime.errors import InputError
from interp.schemas.layer_list import given_layers, layers_text, listed_layers, parse_layers
from interp.schemas.layers import TRAINABLE, GateEntry, GateVerdict, Layers, read_layers
from interp.search.result import SearchResult
from interp.search.run_folder import LAYERS
from interp.storage.manifest import check_manifest

MEANINGS: dict[GateVerdict, str] = {
    "gate found": "training layers {layers}, where the flips arise",
    "arrives from the question": "training layers {layers}, where the difference reaches the final token",
    "as answers form": "training layers {layers}, where the flips arise, but so does every answer",
    "spread over layers": "training the layers that matter, {layers}, since no short range of layers makes the flips",
}
"""Verdict of TRAINABLE -> what training on its layers means."""


LayersSource = str | Path | SearchResult | Layers
"""Where layers to train can be taken from: a layers.json or its folder, or a search that was loaded or just made."""


class Choice(NamedTuple):
    """The layers to train, and where the choice comes from."""

    layers: list[int]
    """Numbers of the decoder layers, ascending."""
    source: str
    """The option, or the file with its verdict and rule, that named the layers."""
    gate: GateEntry | None = None
    """The gate that layers.json names; None without one, or for layers named by hand."""


def read_choice(layers: str | Iterable[int] | None, source: LayersSource | None) -> Layers | str:
    """The layers as given by hand, or the content of a layers.json that names some. Exactly one must be given.

    `source` is the file, its folder, or a search in memory. Needs no model, so that mistakes show before one is loaded.
    Raises InputError if both or neither are given, for a source of another type, and for a layers.json that is
    missing, damaged or different from what its manifest says, or whose verdict is not TRAINABLE.
    """
    if (layers is None) == (source is None):
        raise InputError("Give exactly one of --layers (15-19, or 9,17, or all) and --layers-from layers.json.")
    if layers is not None:
        return layers if isinstance(layers, str) else layers_text(given_layers(layers) or [])
    expect_one_of("layers_from", source, LayersSource, "a layers.json, its folder, or a search in memory")
    path = Path(LAYERS)
    if isinstance(source, SearchResult | Layers):
        found = source if isinstance(source, Layers) else source.artifact
    else:
        path = Path(source or "")
        path = path / LAYERS if path.is_dir() else path
        check_manifest(path.parent, [path.name])
        found = read_layers(path)
    if found.verdict not in TRAINABLE:
        raise InputError(
            f"{path}: the verdict is {found.verdict!r} ({found.reason.rstrip('.')}), so it names no layers to train. "
            "To train anyway, name layers yourself with --layers."
        )
    return found


def verdict_line(found: Layers) -> str:
    """One line on a verdict of TRAINABLE: which one it is, and what training on its layers means."""
    return f"layers.json: {found.verdict}; {MEANINGS[found.verdict].format(layers=layers_text(found.layers))}."


def training_job(wanted: Layers | str, rank: int, batch_size: int, pass_size: int | None = None) -> Job:
    """What training on the layers that `read_choice` returned needs of memory (`interp.model.memory_jobs.training`)."""
    layers = listed_layers(wanted, "--layers") if isinstance(wanted, str) else wanted.layers
    return training(layers, rank, batch_size, pass_size)


def choose_layers(vlm: Vlm, wanted: Layers | str) -> Choice:
    """The layers of `vlm` to train, from what `read_choice` returned.

    Raises InputError for layers that `vlm` does not have, and for a layers.json that describes another model.
    """
    if isinstance(wanted, str):
        return Choice(parse_layers(wanted, range(vlm.n_layers), vlm.n_layers), f"--layers {wanted}")
    studied = (wanted.model.id, wanted.model.n_layers, wanted.model.d_model)
    given = (vlm.name, vlm.n_layers, vlm.d_model)
    if studied != given:
        raise InputError(
            f"layers.json was made on {_described(*studied)}, but the model here is {_described(*given)}. "
            "Give --model the one that was studied, or run `interp find-features` on this one."
        )
    questions = f"questions {wanted.data.fingerprint} ({wanted.data.split} split)"
    source = f"layers.json, {wanted.verdict}, rule {wanted.rule}, {questions}"
    return Choice(sorted(wanted.layers), source, wanted.gate)


def _described(name: str, n_layers: int, d_model: int) -> str:
    return f"{name} ({n_layers} layers of width {d_model})"
