"""A part's RMS norm, its addition to the residual stream and the norm of the next part as one GPU kernel.

Gemma 3 normalizes what attention and MLP write before it is added: h = r + norm(x), and the MLP then reads norm(h),
with norms as in `interp.model.triton_kernels.norm`. One kernel passes over the residual stream four times in place of
seven. Intermediate results are rounded as they would be in memory, so the numbers are those of separate kernels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.model.triton_kernels.norm import launch_options


@triton.jit
def _normed(value, w, column, inside, n, eps):
    inverse = 1 / tl.sqrt(tl.sum(value * value) / n + eps)
    gain = 1 + tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    return value * inverse * gain, inverse


@triton.jit
def _pulled(pull, value, w, inverse, column, inside, n):
    gained = (1 + tl.load(w + column, mask=inside, other=0.0).to(tl.float32)) * pull
    along = tl.sum(gained * value) / n * inverse * inverse
    return inverse * (gained - value * along)


@triton.jit
def _forward(x, residual, w, next_w, total, y, scale, next_scale, n, eps, NEXT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside, at = column < n, row * n + column
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    normed, inverse = _normed(value, w, column, inside, n, eps)
    before = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    summed = (before + normed.to(total.dtype.element_ty).to(tl.float32)).to(total.dtype.element_ty)
    tl.store(total + at, summed, mask=inside)
    tl.store(scale + row, inverse)
    if NEXT:
        normed, inverse = _normed(summed.to(tl.float32), next_w, column, inside, n, eps)
        tl.store(y + at, normed.to(y.dtype.element_ty), mask=inside)
        tl.store(next_scale + row, inverse)


@triton.jit
def _backward(
    dtotal, dy, x, total, w, next_w, scale, next_scale, dresidual, dx, n, NEXT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside, at = column < n, row * n + column
    pull = tl.load(dtotal + at, mask=inside, other=0.0).to(tl.float32)
    if NEXT:
        value = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
        through = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        found = _pulled(through, value, next_w, tl.load(next_scale + row), column, inside, n)
        kept = (pull + found.to(dx.dtype.element_ty).to(tl.float32)).to(dx.dtype.element_ty)
        tl.store(dresidual + at, kept, mask=inside)
        pull = kept.to(tl.float32)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    found = _pulled(pull, value, w, tl.load(scale + row), column, inside, n)
    tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)


class ResidualNorm(torch.autograd.Function):
    """total = residual + norm(x) and, with the weight of a next norm, y = norm(total); otherwise y is None.

    All are contiguous tensors [..., n] of one dtype. Gradients flow to x and residual; the weights are frozen.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, next_weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor | None]:
        total, n, follows = torch.empty_like(x), x.shape[-1], next_weight is not None
        y = torch.empty_like(x) if follows else None
        scales = x.new_empty(2, x.numel() // n, dtype=torch.float32)
        _forward[(scales.shape[1],)](
            x, residual, weight, next_weight, total, y, *scales, n, eps, NEXT=follows, **launch_options(x)
        )
        ctx.save_for_backward(x, total, weight, next_weight, scales)
        return total, y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # noqa: D102
        x, total, weight, next_weight, scales = ctx.saved_tensors
        follows = next_weight is not None
        dtotal, dy = (None if gradient is None else gradient.contiguous() for gradient in gradients)
        dx = torch.empty_like(x)
        dresidual = torch.empty_like(x) if follows else dtotal
        _backward[(scales.shape[1],)](
            dtotal, dy, x, total, weight, next_weight, *scales, dresidual, dx, x.shape[-1], NEXT=follows,
            **launch_options(x),
        )  # fmt: skip
        return dx, dresidual, None, None, None
