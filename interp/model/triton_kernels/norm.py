"""Gemma's RMS norm as one forward and one backward GPU kernel.

y = x / sqrt(mean(x²) + eps) * (1 + w), in float32 whatever the dtype of x.
`transformers.models.gemma3.modeling_gemma3.Gemma3RMSNorm` needs eight kernels for this, which pass ten times over a
float32 copy of the residual stream and take a third of the model's time on an H100.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 2048
"""Elements of a program of several rows. With one row of a head of queries, a program would have too little work."""


@triton.jit
def normed(value, w, column, inside, n, eps):
    """The norms of rows [R, BLOCK] in float32, and the factors [R, 1] that scale them."""
    inverse = 1 / tl.sqrt(tl.sum(value * value, 1, keep_dims=True) / n + eps)
    gain = 1 + tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    return value * inverse * gain, inverse


@triton.jit
def pulled(pull, value, w, inverse, column, inside, n):
    """The gradients of rows [R, BLOCK] from those of their norms, in float32; `inverse` [R, 1] is from `normed`."""
    gained = (1 + tl.load(w + column, mask=inside, other=0.0).to(tl.float32)) * pull
    along = tl.sum(gained * value, 1, keep_dims=True) / n * inverse * inverse
    return inverse * (gained - value * along)


@triton.jit
def place(rows, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of a program: its rows [ROWS, 1], the columns [1, BLOCK], which elements exist, and where they are."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    return row, column, (row < rows) & (column < n), row * n + column


# Otherwise Triton compiles variants by the number of rows.
@triton.jit(do_not_specialize=["rows"])
def _forward(x, w, y, scale, rows, n, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, column, inside, at = place(rows, n, ROWS, BLOCK)
    found, inverse = normed(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), w, column, inside, n, eps)
    tl.store(y + at, found.to(y.dtype.element_ty), mask=inside)
    tl.store(scale + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward(dy, x, w, scale, dx, rows, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row, column, inside, at = place(rows, n, ROWS, BLOCK)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    pull = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    found = pulled(pull, value, w, tl.load(scale + row, mask=row < rows, other=0.0), column, inside, n)
    tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)


class RmsNorm(torch.autograd.Function):
    """RMS norm over the last dimension of a contiguous tensor, with the gradient of the input; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: D102
        n = x.shape[-1]
        y, scale = torch.empty_like(x), x.new_empty(x.numel() // n, dtype=torch.float32)
        grid, options = _launch(x)
        _forward[grid](x, weight, y, scale, len(scale), n, eps, **options)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        x, weight, scale = ctx.saved_tensors
        dx = torch.empty_like(x)
        grid, options = _launch(x)
        _backward[grid](gradients[0].contiguous(), x, weight, scale, dx, len(scale), x.shape[-1], **options)
        return dx, None, None


def _launch(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The programs that norm x [..., n], and their options."""
    block = triton.next_power_of_2(x.shape[-1])
    rows = max(1, AT_ONCE // block)
    return (triton.cdiv(x.numel() // x.shape[-1], rows),), {"ROWS": rows, "BLOCK": block, "num_warps": 8}
