"""Low-rank updates of chosen decoder layers, of the language model only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp.errors import InputError
from interp.vlm import Vlm

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def target_pattern(layers: Sequence[int]) -> str:
    """Regular expression for the full path of every projection in `layers`.

    The whole path is spelled out because the vision tower has `layers.N` with `q_proj` of its own.
    """
    numbers = "|".join(map(str, sorted(layers)))
    return rf"model\.language_model\.layers\.({numbers})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def lora_config(layers: Sequence[int], rank: int = 16, alpha: int = 32, dropout: float = 0.05) -> "LoraConfig":
    """The peft configuration of an adapter on `layers`."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_pattern(layers), bias="none"
    )


def add_lora(
    vlm: Vlm, layers: Sequence[int], rank: int = 16, alpha: int = 32, dropout: float = 0.05, seed: int = 0
) -> "PeftModel":
    """Put an untrained adapter into `vlm.model`, in place; float32 whatever the frozen base is.

    `vlm` answers as before until the adapter is trained. Raises InputError for no layers, or absent ones.
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
    return get_peft_model(vlm.model, lora_config(layers, rank, alpha, dropout))


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
