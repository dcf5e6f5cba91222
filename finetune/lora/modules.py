"""LoRA modules: low-rank updates of the projections in chosen decoder layers of the language model."""

import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from interp.model.vlm import Vlm
from interp.runtime.errors import InputError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

MODULES = ("self_attn", "mlp")
"""The parts of a decoder layer that hold projections."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The projections of a decoder layer that are updated: all of them."""


def target_pattern(layers: Collection[int]) -> str:
    """Regular expression that matches the full module path of every projection in `layers`.

    It spells out the whole path because the vision tower has `layers.N` with a `q_proj` of its own.
    """
    numbers = "|".join(map(str, sorted(layers)))
    return rf"model\.language_model\.layers\.(({numbers})\.({'|'.join(MODULES)})\.({'|'.join(PROJECTIONS)}))"


def lora_config(layers: Collection[int], rank: int = 16, alpha: int = 32, dropout: float = 0.05) -> "LoraConfig":
    """The peft configuration of an adapter of `layers`; every update is scaled by alpha / rank."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_pattern(layers), bias="none"
    )


def add_lora(
    vlm: Vlm, layers: Sequence[int], rank: int = 16, alpha: int = 32, dropout: float = 0.05, seed: int = 0
) -> "PeftModel":
    """Add an untrained adapter to `vlm.model`, in place. It is float32 whatever the dtype of the frozen base is.

    The model answers as before until the adapter is trained. Raises InputError if there are no layers, or if the model
    lacks one of them.
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
        return get_peft_model(vlm.model, lora_config(layers, rank, alpha, dropout))


def parameters_per_rank(model: Any) -> dict[int, int]:
    """Layer -> number of parameters of an adapter of rank 1 there: inputs + outputs of all its projections."""
    found = dict.fromkeys(range(len(model.model.language_model.layers)), 0)
    pattern = re.compile(target_pattern(found))
    for name, projection in model.named_modules():
        if pattern.fullmatch(name):
            *_, layer, _, _ = name.split(".")
            found[int(layer)] += projection.in_features + projection.out_features
    return found


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence peft's warning about a transformers name that is being removed, which users can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def trainable_parameters(model: Any) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def set_dropout(adapted: "PeftModel", active: bool) -> None:
    """Put the model into eval mode, and only its adapter's dropout into train mode if `active`."""
    from peft.tuners.lora import LoraLayer

    adapted.eval()
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(active)
