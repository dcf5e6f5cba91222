"""Attention of edited final tokens, each over the cached keys of its prompt and over its own key.

The edited tokens of a prompt share its cached keys, over which they have a softmax of their own, and do not see each
other. A token's own key then joins with the weight sigmoid(s - L), where s is its score and L the logarithm of the sum
over the cached keys. This merges two parts of a softmax (Milakov and Gimelshein 2018, arXiv 1805.02867), of which one
has a single key.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNED = 8
"""Kernels on a GPU want the rows of a mask to begin at multiples of so many numbers."""


class WithOwn(NamedTuple):
    """Keys, or values, that E edited tokens of each of n prompts may see."""

    past: Tensor
    """Those of the prompts, which all edited tokens of a prompt share: [n, key heads, S, d_head]."""
    own: Tensor
    """Those of the edited tokens themselves: [n, key heads, E, d_head]."""


def attend_edited(query: Tensor, key: WithOwn, value: WithOwn, bias: Tensor, scale: float) -> Tensor:
    """Outputs [n, E, heads, d_head] of the edited tokens' `query` [n, heads, E, d_head].

    `bias` [n, 1, 1, S] is 0 where a prompt's cached key is visible, else minus infinity; at least one is visible, and S
    is a multiple of ALIGNED. Scores are multiplied by `scale`.
    """
    shared, edited = query.shape[1] // key.own.shape[1], query.shape[2]
    past, values, own, own_value = (x.repeat_interleave(shared, 1) for x in (key.past, value.past, key.own, value.own))
    bias = bias.expand(-1, -1, edited, -1)
    if torch.is_grad_enabled():
        # The kernels give no gradient of L.
        others = ~torch.eye(edited, dtype=torch.bool, device=query.device)
        itself = torch.zeros(edited, edited, dtype=bias.dtype, device=query.device).masked_fill(others, -torch.inf)
        bias = torch.cat([bias, itself.expand(len(bias), 1, -1, -1)], 3)
        keys, values = torch.cat([past, own], 2), torch.cat([values, own_value], 2)
        found = F.scaled_dot_product_attention(query, keys, values, bias, scale=scale)
    else:
        before, log_sum = _over_past(query, past, values, bias, scale)
        score = (query.float() * own.float()).sum(-1) * scale
        found = torch.lerp(before, own_value, torch.sigmoid(score - log_sum)[..., None].to(before.dtype))
    return found.transpose(1, 2).contiguous()


def _over_past(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over the cached keys alone, and the logarithm of its sum: float32 [n, heads, E]."""
    kernels: Any = torch.ops.aten
    if query.is_cuda:
        bias = bias.expand(-1, query.shape[1], -1, -1)
        found = kernels._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)
        return found[0], found[1][..., : query.shape[2]]
    found = kernels._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=scale)
    return found[0], found[1]
