"""The RMS norm of queries and keys and their rotary position embedding as one forward and one backward GPU kernel.

For the two halves (a, b) of a head's normed dimensions, y = (a cos - b sin, b cos + a sin): equation 34 of Su et al.
2021, arXiv 2104.09864, in the layout of halves of `transformers.models.gemma3.modeling_gemma3.apply_rotary_pos_emb`.
The norms are those of `interp.model.triton_kernels.norm`. All is computed in float32 and rounded once, where
transformers rounds after the norm and three times more in the embedding.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


@triton.jit
def _halves(x, head, column, x_head, half, inside):
    # The halves [HEADS, HALF] of the heads of a position, in float32.
    at = x + head * x_head + column
    return (
        tl.load(at, mask=inside, other=0.0).to(tl.float32),
        tl.load(at + half, mask=inside, other=0.0).to(tl.float32),
    )


@triton.jit
def _inverse(a, b, half, eps):
    # The factors [HEADS, 1] by which the heads of a position are normed.
    return 1 / tl.sqrt(tl.sum(a * a + b * b, 1, keep_dims=True) / (2 * half) + eps)


@triton.jit
def _gains(w, column, half, wide):
    # The gains [1, HALF] of both halves.
    return (
        1 + tl.load(w + column, mask=wide, other=0.0).to(tl.float32),
        1 + tl.load(w + column + half, mask=wide, other=0.0).to(tl.float32),
    )


@triton.jit
def _turn(x, w, y, place, cos_a, cos_b, sin_a, sin_b, heads, half, eps, HEADS: tl.constexpr, HALF: tl.constexpr):
    # The heads of one position, numbered `place` in x and y [B, S, heads, 2 half], normed and rotated.
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside, at = (head < heads) & (column < half), place * heads * 2 * half
    a, b = _halves(x + at, head, column, 2 * half, half, inside)
    gain_a, gain_b = _gains(w, column, half, column < half)
    inverse = _inverse(a, b, half, eps)
    a, b = a * inverse * gain_a, b * inverse * gain_b
    out = y + at + head * 2 * half + column
    tl.store(out, (a * cos_a - b * sin_a).to(y.dtype.element_ty), mask=inside)
    tl.store(out + half, (b * cos_b + a * sin_b).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _pull(
    dy, x, w, dx, place, cos_a, cos_b, sin_a, sin_b, heads, half, eps, dy_head,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    # The gradient of the heads of one position, at which `dy` points; x and dx lie in memory as in `_turn`.
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside, at = (head < heads) & (column < half), place * heads * 2 * half
    a, b = _halves(x + at, head, column, 2 * half, half, inside)
    left, right = _halves(dy, head, column, dy_head, half, inside)
    gain_a, gain_b = _gains(w, column, half, column < half)
    pull_a, pull_b = gain_a * (left * cos_a + right * sin_b), gain_b * (right * cos_b - left * sin_a)
    inverse = _inverse(a, b, half, eps)
    along = tl.sum(pull_a * a + pull_b * b, 1, keep_dims=True) / (2 * half) * inverse * inverse
    out = dx + at + head * 2 * half + column
    tl.store(out, (inverse * (pull_a - a * along)).to(dx.dtype.element_ty), mask=inside)
    tl.store(out + half, (inverse * (pull_b - b * along)).to(dx.dtype.element_ty), mask=inside)


# Otherwise Triton compiles variants by the number of positions. `angles` is that of the positions in cos and sin.
@triton.jit(do_not_specialize=["angles"])
def _forward(
    q, k, q_w, k_w, cos, sin, q_y, k_y, angles, q_heads, k_heads, half, eps,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    # Each program handles one position of one row of the batch, in all heads.
    place, column = tl.program_id(0).to(tl.int64), tl.arange(0, HALF)[None, :]
    angle, wide = place % angles * 2 * half, column < half
    cos_a, cos_b = _halves(cos + angle, 0, column, 0, half, wide)
    sin_a, sin_b = _halves(sin + angle, 0, column, 0, half, wide)
    _turn(q, q_w, q_y, place, cos_a, cos_b, sin_a, sin_b, q_heads, half, eps, QUERIES, HALF)
    _turn(k, k_w, k_y, place, cos_a, cos_b, sin_a, sin_b, k_heads, half, eps, KEYS, HALF)


@triton.jit(do_not_specialize=["angles", "positions"])
def _backward(
    q_dy, k_dy, q, k, q_w, k_w, cos, sin, q_dx, k_dx, angles, positions, q_heads, k_heads, half, eps,
    q_batch, q_head, q_position, k_batch, k_head, k_position,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    place, column = tl.program_id(0).to(tl.int64), tl.arange(0, HALF)[None, :]
    row, position = place // positions, place % positions
    angle, wide = place % angles * 2 * half, column < half
    cos_a, cos_b = _halves(cos + angle, 0, column, 0, half, wide)
    sin_a, sin_b = _halves(sin + angle, 0, column, 0, half, wide)
    q_dy += row * q_batch + position * q_position
    k_dy += row * k_batch + position * k_position
    _pull(q_dy, q, q_w, q_dx, place, cos_a, cos_b, sin_a, sin_b, q_heads, half, eps, q_head, QUERIES, HALF)
    _pull(k_dy, k, k_w, k_dx, place, cos_a, cos_b, sin_a, sin_b, k_heads, half, eps, k_head, KEYS, HALF)


class RotatedHeads(torch.autograd.Function):
    """Queries and keys [B, heads, S, d_head] from the projections [B, S, heads · d_head], normed and rotated.

    `q_weight` and `k_weight` [d_head] are those of the norms, which are frozen; `cos` and `sin` [B or 1, S, d_head] get
    no gradient. The heads of a position lie side by side in memory, as in the projections.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        q, k, cos, sin = (x.contiguous() for x in (q, k, cos, sin))
        found = [torch.empty_like(x) for x in (q, k)]
        sizes, options = _sizes(q, k, cos)
        _forward[(q.shape[0] * q.shape[1],)](
            q, k, q_weight, k_weight, cos, sin, *found, len(cos) * cos.shape[1], *sizes, eps, **options
        )
        ctx.save_for_backward(q, k, q_weight, k_weight, cos, sin)
        ctx.eps = eps
        queries, keys = (x.unflatten(-1, (-1, cos.shape[-1])).transpose(1, 2) for x in found)
        return queries, keys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        q, k, _, _, cos, _ = ctx.saved_tensors
        slopes = [slope if slope.stride(-1) == 1 else slope.contiguous() for slope in gradients]
        found = [torch.empty_like(x) for x in (q, k)]
        sizes, options = _sizes(q, k, cos)
        strides = [stride for slope in slopes for stride in slope.stride()[:3]]
        _backward[(q.shape[0] * q.shape[1],)](
            *slopes, *ctx.saved_tensors, *found, len(cos) * cos.shape[1], q.shape[1], *sizes, ctx.eps,
            *strides, **options, num_warps=8,
        )  # fmt: skip
        return *found, *[None] * 5


def _sizes(q: Tensor, k: Tensor, cos: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The numbers of heads and half the width of a head, and the sizes of a program's tensors."""
    width = cos.shape[-1]
    heads = q.shape[-1] // width, k.shape[-1] // width
    queries, keys, half = (triton.next_power_of_2(size) for size in (*heads, width // 2))
    return (*heads, width // 2), {"QUERIES": queries, "KEYS": keys, "HALF": half}
