"""Other ways to screen: the usual loop of TransformerLens and sae-lens, plain transformers with hooks, and nnsight.

Each takes a prompt table and returns answer margins and the activations of every SAE at the final tokens.
"""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.images.decode import open_image
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm
from interp.saes.sae import Sae


class Found(NamedTuple):
    """The result of a way to screen on n prompts."""

    margin: Tensor
    """Answer margins in main memory: float32 [n] [logits]."""
    activations: Tensor
    """Activations at final tokens on the model's device: float32 [n, layers, d_sae]."""


Screen = Callable[[pd.DataFrame], Found]


def inputs_of(vlm: Vlm, prompts: pd.DataFrame) -> dict[str, Tensor]:
    """Model inputs for the prompts, each with its own image, left-padded, on the model's device."""
    asked = [
        [{"role": "user", "content": [{"type": "image", "image": open_image(image)}, {"type": "text", "text": text}]}]
        for image, text in zip(prompts["image"], prompts["text"], strict=True)
    ]
    texts = vlm.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    images = [[message["content"][0]["image"]] for (message,) in asked]
    inputs = vlm.processor(
        text=texts, images=images, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    inputs["pixel_values"] = inputs["pixel_values"].to(vlm.tower_dtype)
    # Without these, padding would shift the positions of a prompt.
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {name: value.to(vlm.device) for name, value in inputs.items()}


def encoded(saes: Sequence[Sae], residuals: Sequence[Tensor]) -> Tensor:
    """Residuals [n, d_model] of every layer -> activations [n, layers, d_sae]."""
    return torch.stack([sae.encode(x) for sae, x in zip(saes, residuals, strict=True)], dim=1)


def joined(parts: Sequence[Found]) -> Found:
    """The concatenation of all parts."""
    return Found(torch.cat([part.margin for part in parts]), torch.cat([part.activations for part in parts]))


def in_batches(prompts: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """The prompts in batches of `size`."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def plain_batches(vlm: Vlm, saes: Sequence[Sae], size: int) -> Screen:
    """Transformers with forward hooks on the final token, `size` prompts at a time."""

    @torch.no_grad()
    def batch(prompts: pd.DataFrame) -> Found:
        caught: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda module, inputs, output: caught.append(output[:, -1]))
            for layer in vlm.layers
        ]
        logits = vlm.model(**inputs_of(vlm, prompts), logits_to_keep=1, use_cache=False).logits[:, -1]
        for handle in handles:
            handle.remove()
        return Found(answer_margin(logits, vlm.answers).cpu(), encoded(saes, caught))

    return lambda prompts: joined([batch(part) for part in in_batches(prompts, size)])


def nnsight_traces(vlm: Vlm, saes: Sequence[Sae], size: int) -> Screen:
    """nnsight, `size` prompts per trace, saving every layer's final token. Raises ImportError if it is missing."""
    from nnsight import NNsight, save

    model = NNsight(vlm.model)

    @torch.no_grad()
    def batch(prompts: pd.DataFrame) -> Found:
        with model.trace(**inputs_of(vlm, prompts), logits_to_keep=1, use_cache=False):
            caught = save([layer.output[:, -1] for layer in model.model.language_model.layers])
            logits = save(model.lm_head.output[:, -1])
        return Found(answer_margin(logits, vlm.answers).cpu(), encoded(saes, caught))

    return lambda prompts: joined([batch(part) for part in in_batches(prompts, size)])


def usual_loop(vlm: Vlm, saes: Sequence[Sae]) -> Screen:
    """TransformerLens's run_with_cache, one prompt at a time, and sae-lens on all of its positions.

    Only resid_post is cached, less than by default.
    """
    _stand_in_for_wandb()
    from interp.model.lens_inputs import lens_inputs

    bridge = vlm.bridge()
    theirs = [sae.to_sae_lens() for sae in saes]
    names = [f"blocks.{sae.layer}.hook_resid_post" for sae in saes]

    @torch.no_grad()
    def one(prompt: pd.DataFrame) -> Found:
        (row,) = prompt.itertuples()
        logits, cache = bridge.run_with_cache(**lens_inputs(vlm, row.image, row.text, row.closed), names_filter=names)
        activations = [sae.encode(cache[name])[:, -1] for sae, name in zip(theirs, names, strict=True)]
        return Found(answer_margin(logits[:, -1], vlm.answers).cpu(), torch.stack(activations, dim=1).float())

    return lambda prompts: joined([one(part) for part in in_batches(prompts, 1)])


def _stand_in_for_wandb() -> None:
    """Stub wandb, which sae-lens imports but needs for training only."""
    if importlib.util.find_spec("wandb") is None:
        module = types.ModuleType("wandb")
        module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        sys.modules["wandb"] = module
