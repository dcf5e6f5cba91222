"""Attention of language models whose query heads share key heads, as in all of Gemma 3: fast and safe on a GPU.

transformers repeats the key heads whenever there is a mask. cuDNN's kernel reads shared heads as they are, which saves
copies of all keys and values. A single key head (Gemma 3 270M and 1B) is repeated as a view with stride 0, and the
memory-efficient kernel of PyTorch up to 2.13 misreads such keys and values when their number is 1 more than a multiple
of 32: the output is wrong without an error (PyTorch issue 191937). Copies are read correctly, so that head is copied.
Whole rows have a kernel of our own on Hopper GPUs, which reads masks in less time.
"""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST = 64
"""Queries from which on our kernel is used; it takes so many at once."""
HOPPER = 9
"""Compute capability of H100 and H200, from which on PyTorch prefers cuDNN's attention; on older GPUs other kernels are
faster."""


def attend_shared(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' sdpa attention of `query` [B, heads, q, d] over `key` and `value` [B, key heads, k, d].

    `options` are those of transformers. Returns the heads' outputs [B, q, heads, d], as its attention functions do.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    dropout = options.get("dropout", 0.0)
    if not dropout and attention_mask is not None and fits_masked(query, key, value, attention_mask):
        from interp.model.triton_kernels.masked_attention import MaskedAttention

        # Triton launches on the current GPU, which may be another one if the model is split over several.
        with torch.cuda.device(query.device):
            return MaskedAttention.apply(query, key, value, attention_mask, options["scaling"]).transpose(1, 2), None
    shared = key.shape[1] < query.shape[1]
    if shared and attention_mask is not None and _reads_shared_heads(query, key, value, attention_mask):
        found = F.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, scale=options["scaling"], enable_gqa=True
        )
        return found.transpose(1, 2).contiguous(), None
    if shared and key.shape[1] == 1:
        shape = (-1, query.shape[1], -1, -1)
        key, value = key.expand(shape).contiguous(), value.expand(shape).contiguous()
        # Without `num_key_value_groups`, transformers takes the heads as they are.
        module = SimpleNamespace(is_causal=module.is_causal)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def fits_masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> bool:
    """Whether our kernel attends with a `mask` that is added, and cuDNN computes the gradient if one is needed."""
    if not query.is_cuda or torch.version.hip is not None or query.dtype != torch.bfloat16:
        return False
    if torch.cuda.get_device_capability(query.device)[0] != HOPPER or find_spec("triton") is None:
        return False
    width, length = query.shape[-1], query.shape[-2]
    if width not in (64, 128, 256) or length < FEWEST or mask.shape != (len(query), 1, length, key.shape[-2]):
        return False
    if any(x.stride(-1) != 1 or x.dtype != query.dtype for x in (query, key, value, mask)):
        return False
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return not learns or _reads_shared_heads(query, key, value, mask)


def _reads_shared_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> bool:
    """Whether cuDNN's kernel is allowed, preferred and able to attend without repeated key heads."""
    if not query.is_cuda or torch.cuda.get_device_capability(query.device)[0] < HOPPER:
        return False
    if not torch.backends.cuda.cudnn_sdp_enabled():
        return False
    asked = torch.backends.cuda.SDPAParams(query, key, value, mask, 0.0, False, True)
    return torch.backends.cuda.can_use_cudnn_attention(asked)
