"""Attention of language models whose query heads share key heads, as in all of Gemma 3: fast and safe on a GPU.

transformers repeats the key heads whenever there is a mask. cuDNN's kernel reads shared heads as they are, which saves
copies of all keys and values. A single key head (Gemma 3 270M and 1B) is repeated as a view with stride 0, and the
memory-efficient kernel of PyTorch up to 2.13 misreads such keys and values when their number is 1 more than a multiple
of 32: the output is wrong without an error (PyTorch issue 191937). Copies are read correctly, so that head is copied.
Whole rows have a kernel of our own on Hopper GPUs, which reads masks in less time.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from interp.model.kernel_trial import agrees

_WORKS: dict[tuple[torch.device, int, bool], bool] = {}
"""GPU, channels of a head, and whether gradients are computed -> whether our kernel works."""
MOST_OFF = 2**-5
"""Largest difference from float32, over the largest number, that is rounding to bfloat16, with room: alone, that of the
results is a tenth."""
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
    if torch.cuda.get_device_capability(query.device)[0] != HOPPER:
        return False
    width, length = query.shape[-1], query.shape[-2]
    if width not in (64, 128, 256) or length < FEWEST or mask.shape != (len(query), 1, length, key.shape[-2]):
        return False
    if any(x.stride(-1) != 1 or x.dtype != query.dtype for x in (query, key, value, mask)):
        return False
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if learns and not _reads_shared_heads(query, key, value, mask):
        return False
    tried = query.device, width, learns
    # A CUDA graph cannot record the comparison. Loading a model makes it.
    if tried not in _WORKS and not torch.cuda.is_current_stream_capturing():
        with torch.cuda.device(query.device):
            _WORKS[tried] = agrees("the language model", partial(_difference, *tried), MOST_OFF)
    return _WORKS.get(tried, False)


def _difference(device: torch.device, width: int, learns: bool) -> float:
    """The largest difference of our kernel from float32, over the largest number; with `learns`, of gradients too.

    cuDNN, which computes them, may take more than a second to prepare for it.
    """
    from interp.model.triton_kernels.masked_attention import MaskedAttention

    generator, length = torch.Generator(device).manual_seed(0), FEWEST + 16
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        # Heads that lie in memory as a projection leaves them; the last query sees the last key alone.
        slope, query, key, value = (
            torch.randn(2, length, heads, width, generator=generator, device=device).bfloat16().transpose(1, 2)
            for heads in (4, 4, 2, 2)
        )
        seen = torch.rand(2, 1, length, length, generator=generator, device=device) < 0.7
        seen[:, :, -1], seen[..., -1] = False, True
        mask = torch.where(seen, 0.0, -torch.inf).bfloat16()
        inputs = [x.detach().requires_grad_() for x in (query, key, value)]
        found = MaskedAttention.apply(*inputs, mask, width**-0.5)
        exact = [x.detach().float().requires_grad_() for x in (query, key, value)]
        repeated = [x.repeat_interleave(2, 1) for x in exact[1:]]
        expected = (exact[0] @ repeated[0].transpose(-1, -2) * width**-0.5 + mask.float()).softmax(-1) @ repeated[1]
        pairs = [(found.detach(), expected.detach())]
        if learns:
            mine, theirs = (
                torch.autograd.grad(found, inputs, slope),
                torch.autograd.grad(expected, exact, slope.float()),
            )
            pairs += zip(mine, theirs, strict=True)
        # torch's maximum, which is not a number as soon as one of these is not.
        return float(torch.stack([(mine - theirs).abs().max() / theirs.abs().max() for mine, theirs in pairs]).max())


def _reads_shared_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> bool:
    """Whether cuDNN's kernel is allowed, preferred and able to attend without repeated key heads."""
    if not query.is_cuda or torch.cuda.get_device_capability(query.device)[0] < HOPPER:
        return False
    if not torch.backends.cuda.cudnn_sdp_enabled():
        return False
    asked = torch.backends.cuda.SDPAParams(query, key, value, mask, 0.0, False, True)
    return torch.backends.cuda.can_use_cudnn_attention(asked)
