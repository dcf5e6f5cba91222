"""A model that is too large for one GPU: its layers in blocks over several, all else on the first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from interp.errors import InputError


def split_map(model: Any, devices: Sequence[str | int]) -> dict[str, str | int]:
    """Where each part of a Gemma 3 model goes, as accelerate takes it: like shares of the weights, layers in order.

    `model` may be on the meta device. What meets the residuals before and behind the layers is on the first device.
    """
    text = model.model.language_model
    layers = [sum(p.numel() for p in layer.parameters()) for layer in text.layers]
    total = sum(p.numel() for p in model.parameters())
    places: dict[str, str | int] = {"model.vision_tower": devices[0], "model.multi_modal_projector": devices[0]}
    places |= {f"model.language_model.{name}": devices[0] for name in ("embed_tokens", "norm", "rotary_emb")}
    places["lm_head"] = devices[0]
    before = total - sum(layers)
    for number, size in enumerate(layers):
        # By the middle of the layer, so that none falls behind the last device.
        share = (before + size / 2) / total
        places[f"model.language_model.layers.{number}"] = devices[int(share * len(devices))]
        before += size
    return places


def map_over_gpus(folder: Path) -> dict[str, str | int]:
    """The map of a saved model over all GPUs that this process sees. Raises InputError if they are fewer than two."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    count = torch.cuda.device_count()
    if count < 2:
        raise InputError(f"--device split: needs two GPUs or more, and there are {count} here.")
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return split_map(empty, range(count))
