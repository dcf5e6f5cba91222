"""Running the language model on a packed batch, in whole or from one layer to another."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from inspect import signature, unwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.model.attention import IMPLEMENTATION
from interp.model.block_attention import Blocks, attention_blocks
from interp.model.packing import Batch, attention_masks, column_masks, final_columns
from interp.model.prompts import AnswerTokens, answer_margin
from interp.runtime.async_copies import to_device_async

Mask = Tensor | Blocks
"""What tokens may see in a layer: True or 0 where they may, or the blocks that they see."""

AfterLayer = Callable[[int, Tensor], Tensor]
"""From the number of a layer and its output [B, S, d_model] to the output to use instead."""

DECODE_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention kernels for a few new tokens after a KV cache. cuDNN's is left out: it makes a new plan for every length,
which takes 70 ms on an H100."""


def embed(model: Any, batch: Batch, images: Tensor) -> Tensor:
    """The input of the first layer [B, S, d_model], in the model's dtype.

    `images` [image tokens of all rows, d_model] are the projected image tokens of the batch's rows, in row order.
    """
    config = model.config
    is_image = batch.input_ids == config.image_token_id
    embedded = model.get_input_embeddings()(batch.input_ids.masked_fill(is_image, config.text_config.pad_token_id or 0))
    return embedded.masked_scatter(is_image[..., None], images.to(embedded.dtype))


def batch_masks(model: Any, batch: Batch) -> dict[str, Mask]:
    """What tokens may see in each kind of layer: masks, or blocks for float32 on a CPU without gradients."""
    text, image_token = model.config.text_config, model.config.image_token_id
    decoder = model.model.language_model
    # Blocks would round the scores of bfloat16, which kernels with a mask keep in float32.
    plain = decoder.config._attn_implementation != IMPLEMENTATION or decoder.dtype != torch.float32
    if not (plain or batch.segment.is_cuda or torch.is_grad_enabled()):
        heads, key_heads = text.num_attention_heads, text.num_key_value_heads
        return {**attention_blocks(batch, image_token, text.sliding_window, heads, key_heads)}
    return {**attention_masks(batch, image_token, text.sliding_window)}


def run_layers(
    model: Any,
    hidden: Tensor,
    masks: Mapping[str, Mask],
    position_ids: Tensor,
    start: int = 0,
    stop: int | None = None,
    cache: Any = None,
    rotations: dict[str, tuple[Tensor, Tensor]] | None = None,
    after: AfterLayer | None = None,
) -> Tensor:
    """Run layers `start` to `stop` - 1 (by default the last): [B, S, d_model] -> resid_post [B, S, d_model].

    `hidden` is the output of layer `start` - 1, and `masks` holds one mask for each kind of layer. A transformers
    `cache` stores the keys and values of every layer, and new tokens attend to those that it held before. `rotations`
    keeps the cosines and sines of these positions in each kind of layer from one call to the next. `after` is called
    after every layer. Gradients flow if they are enabled. If the layers are on several devices (`interp.model.load`),
    the result is on that of `hidden`.
    """
    text, home = model.model.language_model, hidden.device
    held = {} if cache is None else {_cache_name(type(text.layers[0]).forward): cache}
    kinds = text.config.layer_types[start:stop]
    rotations = {} if rotations is None else rotations
    for kind in set(kinds) - set(rotations):
        rotations[kind] = text.rotary_emb(hidden, position_ids, kind)
    # Otherwise PyTorch does this anew in every layer.
    given = {kind: masks[kind] for kind in set(kinds)}
    masks = {k: additive(m, hidden.dtype) if isinstance(m, Tensor) else m for k, m in given.items()}
    for number, (kind, layer) in enumerate(zip(kinds, text.layers[start:stop], strict=True), start):
        hidden = layer(
            hidden,
            attention_mask=masks[kind],
            position_embeddings=rotations[kind],
            position_ids=position_ids,
            **held,
        )
        if after is not None:
            hidden = after(number, hidden)
    return hidden.to(home)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores in place of a boolean mask: 0 where it is true, else minus infinity."""
    return torch.where(mask, 0.0, -torch.inf).to(dtype) if mask.dtype == torch.bool else mask


@lru_cache
def _cache_name(forward: Callable[..., Any]) -> str:
    """The parameter by which a decoder layer's `forward` takes a cache; transformers 5.24 renamed it."""
    return "cache" if "cache" in signature(unwrap(forward)).parameters else "past_key_values"


def prompt_cache() -> Any:
    """An empty KV cache for packed prompts, in which every layer keeps all positions."""
    from transformers import DynamicCache

    # With the config, local layers would drop old columns, but a packed column is not the token's position.
    return DynamicCache()


def run_packed(model: Any, batch: Batch, images: Tensor, cache: Any = None, after: AfterLayer | None = None) -> Tensor:
    """Run a packed batch through all layers and the final norm: [B, S, d_model].

    Parameters are as for `embed` and `run_layers`.
    """
    return model.model.language_model.norm(run_below(model, batch, images, None, cache, after))


def run_below(
    model: Any,
    batch: Batch,
    images: Tensor,
    stop: int | None = None,
    cache: Any = None,
    after: AfterLayer | None = None,
) -> Tensor:
    """Run a packed batch through the layers below `stop`, by default all: the input of that layer [B, S, d_model].

    Parameters are as for `embed` and `run_layers`.
    """
    hidden, masks = embed(model, batch, images), batch_masks(model, batch)
    return run_layers(model, hidden, masks, batch.position_ids, 0, stop, cache, after=after)


def final_logits(model: Any, batch: Batch, images: Tensor, after: AfterLayer | None = None) -> Tensor:
    """Logits [n, vocabulary] of the first answer token of every prompt in a packed batch.

    Parameters are as for `embed` and `run_layers`.
    """
    return logits_from_layer(model, batch, embed(model, batch, images), after=after)


def logits_from_layer(
    model: Any, batch: Batch, hidden: Tensor, start: int = 0, after: AfterLayer | None = None
) -> Tensor:
    """`final_logits`, computed from the input `hidden` [B, S, d_model] of layer `start`."""
    last = len(model.model.language_model.layers) - 1
    if start < last:
        hidden = run_layers(model, hidden, batch_masks(model, batch), batch.position_ids, start, last, after=after)
    if start <= last:
        hidden = run_last_layer(model, batch, hidden, after=after)
    final = hidden[batch.final[:, 0], batch.final[:, 1]]
    return model.lm_head(model.model.language_model.norm(final))


def run_last_layer(
    model: Any, batch: Batch, hidden: Tensor, cache: Any = None, after: AfterLayer | None = None
) -> Tensor:
    """Run the last layer at final tokens: its input [B, S, d_model] -> resid_post [B, S, d_model], 0 at other tokens.

    Nothing reads the others, of which only keys and values are computed. If the layer has hooks, all tokens are run.
    Gradients flow if they are enabled. Parameters are as for `run_layers`.
    """
    from transformers.models.gemma3.modeling_gemma3 import apply_rotary_pos_emb

    text = model.model.language_model
    last = len(text.layers) - 1
    layer, kind = text.layers[last], text.config.layer_types[last]
    if layer._forward_pre_hooks or layer._forward_hooks:
        # They may change what keys and values are computed from, and look for tokens where they are in the batch.
        masks = batch_masks(model, batch)
        return run_layers(model, hidden, masks, batch.position_ids, last, cache=cache, after=after)
    own, columns = layer.self_attn, final_columns(batch)
    # Gathered and scattered, because the gradient of indexing sorts the indices.
    index = columns[..., None].expand(-1, -1, hidden.shape[-1])
    there = layer.input_layernorm.weight.device
    normed = layer.input_layernorm(hidden.to(there))
    keys, values = (part(normed).unflatten(-1, (-1, own.head_dim)).transpose(1, 2) for part in (own.k_proj, own.v_proj))
    places = [part.to(there) for part in text.rotary_emb(hidden, batch.position_ids, kind)]
    keys, _ = apply_rotary_pos_emb(own.k_norm(keys), keys[:, :0], *places)
    if cache is not None:
        cache.update(keys, values, last)

    # The gradient of the memory-efficient kernel takes long for few queries.
    with nullcontext() if torch.is_grad_enabled() else decode_kernels(hidden.device):
        found = run_layers(
            model,
            hidden.gather(1, index),
            column_masks(batch, columns, text.config.sliding_window),
            batch.position_ids.gather(1, columns),
            last,
            cache=WholeRows(keys, values),
        )
    in_its_place = found.new_zeros(hidden.shape).scatter_(1, index, found)
    return in_its_place if after is None else after(last, in_its_place)


def decode_kernels(device: torch.device) -> AbstractContextManager[None]:
    """While open, attention on a GPU takes one of DECODE_KERNELS.

    The choice is that of the whole process, and a CPU, where threads run batches side by side, has no others.
    """
    return nullcontext() if device.type == "cpu" else sdpa_kernel(DECODE_KERNELS)


class WholeRows(NamedTuple):
    """A read-only stand-in for a transformers cache: queries see the keys and values of whole rows, and no others."""

    keys: Tensor
    """Keys of every position: [B, key heads, S, d_head]."""
    values: Tensor
    """Values of every position: [B, key heads, S, d_head]."""

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of whole rows, which include those of the queries."""
        return self.keys, self.values


def final_margins(model: Any, residuals: Tensor, answers: AnswerTokens) -> Tensor:
    """Answer margins [...] of the last layer's residuals [..., d_model]; only answer tokens' logits are computed."""
    ids = to_device_async(torch.cat(answers), residuals.device)
    weight = model.lm_head.weight[ids]
    logits = model.model.language_model.norm(residuals) @ weight.T
    places = torch.arange(len(ids), device=ids.device)
    return answer_margin(logits, AnswerTokens(places[: len(answers.yes)], places[len(answers.yes) :]))
