"""A part's RMS norm, its addition to the residual stream and the norm of the next part as one GPU kernel.

Gemma 3 normalizes what attention and MLP write before it is added: h = r + norm(x), and the MLP then reads norm(h),
with norms as in `interp.model.triton_kernels.norm`. One kernel reads or writes a tensor of the stream's size four times
in place of seven. Intermediate results are rounded as they would be in memory, so the numbers are those of separate
kernels. Where nothing is added, as before attention, the backward kernel still adds the gradients of stream and norm.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp.model.triton_kernels.norm import normed, place, pulled


@triton.jit
def _forward(
    x, residual, w, next_w, total, y, scale, next_scale, n, eps,
    ADDED: tl.constexpr, NEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # The grid has a program for each row.
    row, column, inside, at = place(tl.num_programs(0), n, 1, BLOCK)
    summed = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        found, inverse = normed(value, w, column, inside, n, eps)
        kept = (summed + found.to(total.dtype.element_ty).to(tl.float32)).to(total.dtype.element_ty)
        tl.store(total + at, kept, mask=inside)
        tl.store(scale + row, inverse)
        summed = kept.to(tl.float32)
    if NEXT:
        found, inverse = normed(summed, next_w, column, inside, n, eps)
        tl.store(y + at, found.to(y.dtype.element_ty), mask=inside)
        tl.store(next_scale + row, inverse)


@triton.jit
def _backward(
    dtotal, dy, x, total, w, next_w, scale, next_scale, dresidual, dx, n,
    ADDED: tl.constexpr, NEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # The grid has a program for each row.
    row, column, inside, at = place(tl.num_programs(0), n, 1, BLOCK)
    pull = tl.load(dtotal + at, mask=inside, other=0.0).to(tl.float32)
    if NEXT:
        value = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
        through = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        found = pulled(through, value, next_w, tl.load(next_scale + row), column, inside, n)
        kept = (pull + found.to(dy.dtype.element_ty).to(tl.float32)).to(dy.dtype.element_ty)
        tl.store(dresidual + at, kept, mask=inside)
        pull = kept.to(tl.float32)
    if ADDED:
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        found = pulled(pull, value, w, tl.load(scale + row), column, inside, n)
        tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)


class ResidualNorm(torch.autograd.Function):
    """total = residual + norm(x) and y = next norm of total: contiguous tensors [..., n] of one dtype.

    Without x and its weight, total is residual; without `next_weight`, y is None. Gradients flow to x and residual; the
    weights [n] are frozen.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor | None, residual: Tensor, weight: Tensor | None, next_weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor | None]:
        n = residual.shape[-1]
        total = residual if x is None else torch.empty_like(residual)
        y = None if next_weight is None else torch.empty_like(residual)
        scales = residual.new_empty(2, residual.numel() // n, dtype=torch.float32)
        _forward[(scales.shape[1],)](
            x, residual, weight, next_weight, total, y, *scales, n, eps, **_options(x, next_weight, residual)
        )
        ctx.save_for_backward(x, total, weight, next_weight, scales)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:  # noqa: D102
        x, total, weight, next_weight, scales = ctx.saved_tensors
        dtotal, dy = (None if gradient is None else gradient.contiguous() for gradient in gradients)
        dx = None if x is None else torch.empty_like(x)
        dresidual = dtotal if next_weight is None else torch.empty_like(total)
        _backward[(scales.shape[1],)](
            dtotal, dy, x, total, weight, next_weight, *scales, dresidual, dx, total.shape[-1],
            **_options(x, next_weight, total),
        )  # fmt: skip
        return dx, dresidual, None, None, None


def _options(x: Tensor | None, next_weight: Tensor | None, rows: Tensor) -> dict[str, Any]:
    block = triton.next_power_of_2(rows.shape[-1])
    warps = max(1, min(8, block // 256))
    return {"ADDED": x is not None, "NEXT": next_weight is not None, "BLOCK": block, "num_warps": warps}
