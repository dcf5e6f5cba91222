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
    n, heads, edited, _ = query.shape
    groups = key.own.shape[1]
    if torch.is_grad_enabled():
        # The kernels give no gradient of L.
        others = ~torch.eye(edited, dtype=torch.bool, device=query.device)
        itself = torch.zeros(edited, edited, dtype=bias.dtype, device=query.device).masked_fill(others, -torch.inf)
        seen = torch.cat([bias.expand(-1, -1, edited, -1), itself.expand(n, 1, -1, -1)], 3)
        keys, values = (torch.cat(x, 2).repeat_interleave(heads // groups, 1) for x in (key, value))
        found = F.scaled_dot_product_attention(query, keys, values, seen, scale=scale)
    else:
        # Heads that share keys become rows of one head, so that no key is repeated: [n, groups, shared, E, d_head].
        asked = query.unflatten(1, (groups, -1))
        before, log_sum = _over_past(asked.flatten(2, 3), key.past, value.past, bias, scale)
        score = (asked.float() * key.own[:, :, None].float()).sum(-1) * scale
        own = torch.sigmoid(score - log_sum.reshape(score.shape))[..., None].to(before.dtype)
        found = torch.lerp(before.unflatten(2, (-1, edited)), value.own[:, :, None], own).flatten(1, 2)
    return found.transpose(1, 2).contiguous()


def _over_past(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention over the cached keys alone, and the logarithm of its sum: float32 [n, heads, E], for as many heads."""
    kernels: Any = torch.ops.aten
    bias = bias.expand(-1, query.shape[1] if query.is_cuda else -1, query.shape[2], -1)
    if query.is_cuda:
        found = kernels._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scale)
        return found[0], found[1][..., : query.shape[2]]
    found = kernels._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=scale)
    return found[0], found[1]
