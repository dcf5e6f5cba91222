"""The language model on a packed batch: all of it, or from any of its layers to any other."""

from collections.abc import Callable
from functools import lru_cache
from inspect import signature, unwrap
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from interp.model.packing import Batch, attention_masks
from interp.model.prompts import AnswerTokens, answer_margin

DECODE_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of attention where few tokens follow a cache: all but cuDNN's, which is planned anew (70 ms on an H100) for every
length it meets."""


def embed(model: Any, batch: Batch, images: Tensor) -> Tensor:
    """What enters the first layer: float [B, S, d_model].

    `images` [..., d_model] are the projected image tokens of the batch's rows, one behind the other.
    """
    config = model.config
    is_image = batch.input_ids == config.image_token_id
    embedded = model.get_input_embeddings()(batch.input_ids.masked_fill(is_image, config.text_config.pad_token_id or 0))
    return embedded.masked_scatter(is_image[..., None], images.to(embedded.dtype))


def batch_masks(model: Any, batch: Batch) -> dict[str, Tensor]:
    """The masks of `interp.model.packing.attention_masks` for this model."""
    return attention_masks(batch, model.config.image_token_id, model.config.text_config.sliding_window)


def run_layers(
    model: Any,
    hidden: Tensor,
    masks: dict[str, Tensor],
    position_ids: Tensor,
    start: int = 0,
    stop: int | None = None,
    cache: Any = None,
) -> Tensor:
    """Run the layers `start` to `stop` - 1 (by default to the last): [B, S, d_model] -> [B, S, d_model], resid_post.

    `hidden` is the output of layer `start` - 1; `masks` hold one mask for each kind of layer. A transformers `cache`
    takes the keys and values of every layer, and gives what it held before. Gradients flow if enabled. Layers on other
    devices (`interp.model.load`) are handed their inputs there; the last one's output comes back to where `hidden` was.
    """
    text, home = model.model.language_model, hidden.device
    held = {} if cache is None else {_cache_name(type(text.layers[0]).forward): cache}
    kinds = text.config.layer_types[start:stop]
    places = {kind: text.rotary_emb(hidden, position_ids, kind) for kind in dict.fromkeys(kinds)}
    for kind, layer in zip(kinds, text.layers[start:stop], strict=True):
        hidden = layer(
            hidden,
            attention_mask=masks[kind],
            position_embeddings=places[kind],
            position_ids=position_ids,
            **held,
        )
    return hidden.to(home)


@lru_cache
def _cache_name(forward: Callable[..., Any]) -> str:
    """As what a decoder layer's `forward` takes a cache: transformers 5.24 changed the name."""
    return "cache" if "cache" in signature(unwrap(forward)).parameters else "past_key_values"


def prompt_cache() -> Any:
    """An empty transformers cache for packed prompts: every layer keeps the keys and values of every position."""
    from transformers import DynamicCache

    # Without the config: with it, local layers would forget positions by their column, which is not their place.
    return DynamicCache()


def run_packed(model: Any, batch: Batch, images: Tensor, cache: Any = None) -> Tensor:
    """Run a packed batch through all layers and the final norm: [B, S, d_model]; parameters as for the parts above."""
    hidden = run_layers(model, embed(model, batch, images), batch_masks(model, batch), batch.position_ids, cache=cache)
    return model.model.language_model.norm(hidden)


def final_logits(model: Any, batch: Batch, images: Tensor) -> Tensor:
    """First-answer-token logits [n, vocabulary] of every prompt of a packed batch."""
    return logits_from_layer(model, batch, embed(model, batch, images))


def logits_from_layer(model: Any, batch: Batch, hidden: Tensor, start: int = 0) -> Tensor:
    """The same from what enters layer `start`, [B, S, d_model]."""
    hidden = run_layers(model, hidden, batch_masks(model, batch), batch.position_ids, start)
    final = hidden[batch.final[:, 0], batch.final[:, 1]]
    return model.lm_head(model.model.language_model.norm(final))


def final_margins(model: Any, residuals: Tensor, answers: AnswerTokens) -> Tensor:
    """Answer margins [...] of the last layer's residuals [..., d_model]: of the vocabulary, the answer tokens alone."""
    ids = torch.cat(answers).to(residuals.device)
    weight = model.lm_head.weight[ids]
    logits = model.model.language_model.norm(residuals) @ weight.T
    places = torch.arange(len(ids))
    return answer_margin(logits, AnswerTokens(places[: len(answers.yes)], places[len(answers.yes) :]))
