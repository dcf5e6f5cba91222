"""Low-rank updates of chosen decoder layers, of the language model only."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from finetune.lora.ranks import Place, Ranks, uniform_ranks
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.layers import Module

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


PROJECTIONS: dict[Module, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""The projections of each module."""
PATHS: dict[Module, str] = {"attention": "self_attn", "mlp": "mlp"}
"""Where they lie in a decoder layer."""


def target_pattern(places: Iterable[Place]) -> str:
    """Regular expression for the full path of every projection at some places.

    The whole path is spelled out because the vision tower has `layers.N` with `q_proj` of its own. The layers of each
    module are one group, and modules of the same layers are one alternative.
    """
    layers_of: dict[Module, list[int]] = {}
    for layer, module in sorted(places):
        layers_of.setdefault(module, []).append(layer)
    modules_of: dict[tuple[int, ...], list[Module]] = {}
    for module in PATHS:
        if module in layers_of:
            modules_of.setdefault(tuple(layers_of[module]), []).append(module)
    parts = []
    for layers, modules in modules_of.items():
        paths = "|".join(PATHS[module] for module in modules)
        names = "|".join(name for module in modules for name in PROJECTIONS[module])
        parts.append(rf"({'|'.join(map(str, layers))})\.({paths})\.({names})")
    return rf"model\.language_model\.layers\.({'|'.join(parts)})"


def lora_config(ranks: Ranks, alpha_a_rank: float = 2.0, dropout: float = 0.05) -> "LoraConfig":
    """The peft configuration of an adapter with these ranks; every update is scaled by `alpha_a_rank`, alpha / rank.

    The most frequent rank is the configuration's own `r`; places of others are in its `rank_pattern`, `alpha_pattern`.
    """
    from peft import LoraConfig

    of_rank: dict[int, list[Place]] = {}
    for place, rank in ranks.items():
        of_rank.setdefault(rank, []).append(place)
    usual = max(of_rank, key=lambda rank: (len(of_rank[rank]), rank))
    patterns = {target_pattern(places): rank for rank, places in sorted(of_rank.items()) if rank != usual}
    return LoraConfig(
        r=usual,
        lora_alpha=_whole(usual * alpha_a_rank),
        lora_dropout=dropout,
        target_modules=target_pattern(ranks),
        rank_pattern=patterns,
        alpha_pattern={pattern: _whole(rank * alpha_a_rank) for pattern, rank in patterns.items()},
        bias="none",
    )


def _whole(alpha: float) -> Any:
    """As peft's own configurations have it where it can be, an integer."""
    return int(alpha) if alpha == int(alpha) else alpha


def add_lora(
    vlm: Vlm,
    layers: Sequence[int],
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.05,
    seed: int = 0,
    ranks: Ranks | None = None,
) -> "PeftModel":
    """Put an untrained adapter into `vlm.model`, in place; float32 whatever the frozen base is.

    `ranks` are those of the layers' modules, by default `rank` in both; alpha / rank is the same everywhere. `vlm`
    answers as before until the adapter is trained. Raises InputError for no layers, or absent ones.
    """
    from peft import get_peft_model

    if not layers:
        raise InputError("No layers to train. Give some with --layers 15-19.")
    absent = sorted(set(layers) - set(range(vlm.n_layers)))
    if absent:
        raise InputError(
            f"{vlm.name} has no layer {', '.join(map(str, absent))}: its layers are 0 to {vlm.n_layers - 1}."
        )
    torch.manual_seed(seed)
    with quiet_peft():
        return get_peft_model(vlm.model, lora_config(ranks or uniform_ranks(layers, rank), alpha / rank, dropout))


def parameters_a_rank(model: Any) -> dict[Place, int]:
    """Parameters of an adapter of rank 1 at every place: inputs + outputs of all its projections."""
    count = len(model.model.language_model.layers)
    found = dict.fromkeys(uniform_ranks(range(count), 1), 0)
    module_of = {path: module for module, path in PATHS.items()}
    pattern = re.compile(target_pattern(found))
    for name, projection in model.named_modules():
        if pattern.fullmatch(name):
            *_, layer, path, _ = name.split(".")
            found[int(layer), module_of[path]] += projection.in_features + projection.out_features
    return found


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without a warning on peft's use of a transformers name that is going away: nothing that a user could change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def trainable_parameters(model: Any) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def set_dropout(adapted: "PeftModel", active: bool) -> None:
    """Put the model into eval mode, and its adapter's dropout alone into train mode if `active`."""
    from peft.tuners.lora import LoraLayer

    adapted.eval()
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(active)
