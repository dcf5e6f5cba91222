"""Attention under a mask whose query heads share key heads, as one GPU kernel; its gradient is cuDNN's.

FlashAttention-2 (Dao 2023, arXiv 2307.08691): no scores are stored, and the softmax is scaled anew as larger scores
come. Sums are in float32, and weights are rounded to 16 bits before they are multiplied. The kernel leaves the
logarithms of the softmax's sums as cuDNN's backward kernel reads them. For rows of some hundred tokens with heads of
256 channels, cuDNN's forward kernel takes nearly twice as long.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERIES, KEYS = 64, 32
"""Queries of a program, and the keys that it takes at once."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attend(
    q, k, v, mask, out, log_sum, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, mask_b, mask_s, out_b, out_h, out_s,
    heads, group, length, keys, scale, QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    # Each program handles some queries of one head of one row of the batch.
    head, b = tl.program_id(1) % heads, (tl.program_id(1) // heads).to(tl.int64)
    query, channel = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES), tl.arange(0, D)
    inside = query < length
    own = tl.load(q + b * q_b + head * q_h + query[:, None] * q_s + channel[None, :], mask=inside[:, None], other=0.0)
    k += b * k_b + (head // group) * k_h
    v += b * v_b + (head // group) * v_h
    mask += b * mask_b
    top, total = tl.full((QUERIES,), float("-inf"), tl.float32), tl.zeros((QUERIES,), tl.float32)
    found = tl.zeros((QUERIES, D), tl.float32)
    for start in range(0, keys, KEYS):
        key = start + tl.arange(0, KEYS)
        there = key < keys
        seen = tl.load(k + key[None, :] * k_s + channel[:, None], mask=there[None, :], other=0.0)
        added = tl.load(
            mask + query[:, None] * mask_s + key[None, :], mask=inside[:, None] & there[None, :], other=float("-inf")
        )
        score = (tl.dot(own, seen) * scale + added.to(tl.float32)) * LOG2_E
        higher = tl.maximum(top, tl.max(score, 1))
        # A query that has seen no key yet would give the difference of two infinities.
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score - finite[:, None])
        shrink = tl.exp2(top - finite)
        total = total * shrink + tl.sum(weight, 1)
        values = tl.load(v + key[:, None] * v_s + channel[None, :], mask=there[:, None], other=0.0)
        found = tl.dot(weight.to(values.dtype), values, found * shrink[:, None])
        top = higher
    at = out + b * out_b + head * out_h + query[:, None] * out_s + channel[None, :]
    tl.store(at, (found / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(log_sum + (b * heads + head) * length + query, (top + tl.log2(total)) / LOG2_E, mask=inside)


class MaskedAttention(torch.autograd.Function):
    """softmax(q kᵀ scale + mask) v: q [B, heads, n, d], k and v [B, key heads, m, d], mask [B, 1, n, m] -> like q.

    All have one 16-bit dtype and contiguous channels, whose number is a power of 2 and at least 16. Equally many heads
    share each key head, and every query sees a key. Gradients flow to q, k and v.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:  # noqa: D102
        batch, heads, length, d = q.shape
        # The heads of a position lie side by side, as projections need them.
        out = q.new_empty(batch, length, heads, d).transpose(1, 2)
        log_sum = q.new_empty(batch, heads, length, 1, dtype=torch.float32)
        strides = [stride for x in (q, k, v) for stride in x.stride()[:3]]
        _attend[(triton.cdiv(length, QUERIES), batch * heads)](
            q, k, v, mask, out, log_sum, *strides, mask.stride(0), mask.stride(2), *out.stride()[:3],
            heads, heads // k.shape[1], length, k.shape[2], scale, QUERIES=QUERIES, KEYS=KEYS, D=d, num_stages=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, mask, out, log_sum)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # noqa: D102
        q, k, v, mask, out, log_sum = ctx.saved_tensors
        # For dropout, of which there is none, so that nothing reads it.
        seed = q.new_empty((), dtype=torch.int64)
        dq, dk, dv = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            gradients[0], q, k, v, out, log_sum, seed, seed, mask, None, None, q.shape[2], k.shape[2], 0.0, False,
            scale=ctx.scale,
        )  # fmt: skip
        return dq, dk, dv, None, None
