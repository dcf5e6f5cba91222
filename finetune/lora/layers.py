"""Which layers to train: by hand, or from the `layers.json` that `interp` wrote about this very model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.lora.modules import parameters_a_rank
from finetune.lora.ranks import Ranks, parameters_of, uniform_ranks, weighted_ranks, weights_at
from finetune.lora.settings import TrainSettings
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.layer_list import parse_layers
from interp.schemas.layers import Layers, ModuleWeight, read_layers
from interp.storage.manifest import check_manifest


class Choice(NamedTuple):
    """Layers to train and why these."""

    layers: list[int]
    """Decoder layers, ascending."""
    source: str
    """The option or the file and rule that named them."""
    weights: Sequence[ModuleWeight] = ()
    """What a layers.json says of the weight of layers and modules; none by hand."""


def read_choice(text: str | None, path: Path | None) -> Layers | str:
    """The range by hand, or the content of a layers.json with a gate: exactly one of `text` and `path`.

    Needs no model, so that a mistake shows before one is loaded. Raises InputError if both or neither are given, and
    for a layers.json that is absent, not as its manifest says, damaged, or found no gate.
    """
    if (text is None) == (path is None):
        raise InputError(
            "Give either --layers (as 15-19, or 9,17, or all) or --layers-from layers.json, one of the two."
        )
    if text is not None:
        return text
    assert path is not None
    check_manifest(path.parent, [path.name])
    found = read_layers(path)
    if found.verdict != "gate found":
        raise InputError(
            f"{path}: the verdict is {found.verdict!r} ({found.reason.rstrip('.')}), so there is nothing to aim at. "
            "To train all the same, give layers by hand with --layers."
        )
    return found


def choose_layers(vlm: Vlm, wanted: Layers | str) -> Choice:
    """The layers of `vlm` to train, as `read_choice` gave them.

    Raises InputError for layers that `vlm` does not have, and for a layers.json made on another model.
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
    source = f"layers.json, rule {wanted.rule}, questions {wanted.data.fingerprint} ({wanted.data.split} split)"
    return Choice(sorted(wanted.layers), source, wanted.weights)


def ranks_of(vlm: Vlm, choice: Choice, settings: TrainSettings) -> Ranks:
    """The rank of every layer and module that is trained, as the settings have it.

    Raises InputError if ranks are to be weighted, and nothing of the chosen layers and modules has a weight.
    """
    ranks = uniform_ranks(choice.layers, settings.rank, settings.modules)
    if settings.allocation == "uniform":
        return ranks
    weights = weights_at(choice.weights, choice.layers, settings.modules)
    if not any(weight > 0 for weight in weights.values()):
        raise InputError(
            f"{choice.source} has no weights for these layers and modules, by which ranks could be shared out. Run "
            "`interp find-features` again and give its file with --layers-from, or leave --allocation out."
        )
    a_rank = parameters_a_rank(vlm.model)
    return weighted_ranks(weights, a_rank, parameters_of(ranks, a_rank))


def _described(name: str, n_layers: int, d_model: int) -> str:
    return f"{name} ({n_layers} layers of width {d_model})"
