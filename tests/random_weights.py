"""Models with random weights, in the folders that transformers writes."""

from pathlib import Path
from typing import Any

import torch


def draw_norms(model: Any) -> None:
    """Draw the weights of all RMS norms of `model`, which are 0 otherwise."""
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            torch.nn.init.normal_(module.weight)


def save_random(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Draw all weights of `model` but its norms, and save it with a processor for images of 64 pixels."""
    from interp.demo.model import build_processor

    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    build_processor(tokenizer, 64).save_pretrained(folder)
    return folder
