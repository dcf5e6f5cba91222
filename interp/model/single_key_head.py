"""Attention of language models whose query heads all share one key head (Gemma 3 270M and 1B), safe on a GPU.

transformers repeats that head as a view with stride 0, and the memory-efficient kernel of PyTorch up to 2.13 misreads
such keys and values when their number is 1 more than a multiple of 32: the output is wrong without an error (PyTorch
issue 191937). Copies are read correctly, so the heads are copied here. Models with several key heads are unaffected,
because repeating those copies them anyway.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor

IMPLEMENTATION = "sdpa_single_key_head"
"""Name under which `attend` is registered with transformers."""


def copy_single_key_head(model: Any) -> None:
    """Make the decoder of a loaded model attend with `attend`, in place, if all its query heads share one key head."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    decoder = model.model.language_model
    if decoder.config.num_key_value_heads != 1 or decoder.config.num_attention_heads == 1:
        return
    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    decoder.set_attn_implementation(IMPLEMENTATION)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' sdpa attention of `query` [B, heads, q, d] on a copy of one `key` and `value` [B, 1, k, d] a head.

    Returns the heads' outputs [B, q, heads, d], as transformers' attention functions do.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    shape = (-1, query.shape[1], -1, -1)
    key, value = key.expand(shape).contiguous(), value.expand(shape).contiguous()
    # Without `num_key_value_groups`, transformers takes the heads as they are.
    repeated: Any = SimpleNamespace(is_causal=module.is_causal)
    return sdpa_attention_forward(repeated, query, key, value, attention_mask, **options)
