"""The attention of every loaded decoder: transformers' own, but for shared key heads, packed rows and edited tokens."""

from typing import Any

from torch import Tensor

from interp.model.block_attention import Blocks, attend_blocks
from interp.model.edited_attention import WithOwn, attend_edited
from interp.model.key_heads import attend_shared

IMPLEMENTATION = "gatescope"
"""Name under which `attend` is registered with transformers."""


def set_attention(model: Any) -> None:
    """Make the decoder of a loaded model attend with `attend`, in place."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    model.model.language_model.set_attn_implementation(IMPLEMENTATION)


def attend(
    module: Any,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor | Blocks | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Outputs [B, q, heads, d_head] of `query` [B, heads, q, d_head], as transformers calls its attention functions.

    `key` and `value` are tensors [B, key heads, k, d_head], or `WithOwn` for edited tokens. `Blocks` in place of a mask
    are those of the batch.
    """
    if isinstance(attention_mask, Blocks):
        return attend_blocks(query, key, value, attention_mask, options["scaling"]), None
    if isinstance(key, WithOwn) and attention_mask is not None:
        return attend_edited(query, key, value, attention_mask, options["scaling"]), None
    return attend_shared(module, query, key, value, attention_mask, **options)
