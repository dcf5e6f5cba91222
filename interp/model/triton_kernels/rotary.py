"""The rotary position embedding of queries or keys as one forward and one backward GPU kernel.

For the two halves (a, b) of a head's dimensions, y = (a cos - b sin, b cos + a sin), computed in float32 whatever the
dtype and rounded once. This is equation 34 of Su et al. 2021, arXiv 2104.09864, in the layout of halves of
`transformers.models.gemma3.modeling_gemma3.apply_rotary_pos_emb`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


# Otherwise Triton compiles variants for 1 position, for multiples of 16 and for others, .3 s each.
@triton.jit(do_not_specialize=["positions"])
def _rotate(
    x, cos, sin, y, heads, positions, half,
    x_batch, x_head, x_position, y_batch, y_head, y_position,
    BACK: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    # Each program handles one position of one row of the batch, in all heads.
    place = tl.program_id(0).to(tl.int64)
    row, position = place // positions, place % positions
    head, column = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (column < half)
    wide = column < half
    first = x + row * x_batch + position * x_position + head * x_head + column
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    angle = place * 2 * half + column
    cos_a, cos_b = (
        tl.load(cos + angle, mask=wide).to(tl.float32),
        tl.load(cos + angle + half, mask=wide).to(tl.float32),
    )
    sin_a, sin_b = (
        tl.load(sin + angle, mask=wide).to(tl.float32),
        tl.load(sin + angle + half, mask=wide).to(tl.float32),
    )
    if BACK:
        left, right = a * cos_a + b * sin_b, b * cos_b - a * sin_a
    else:
        left, right = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    out = y + row * y_batch + position * y_position + head * y_head + column
    tl.store(out, left.to(y.dtype.element_ty), mask=inside)
    tl.store(out + half, right.to(y.dtype.element_ty), mask=inside)


class Rotary(torch.autograd.Function):
    """x [B, heads, S, d_head] rotated by cos and sin [B, S, d_head], with the gradient of x; the angles get none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: D102
        cos, sin = (angle.expand(x.shape[0], -1, -1).contiguous() for angle in (cos, sin))
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, sin, back=True), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty_like(x)
    batch, heads, positions, width = x.shape
    blocks = {"HEADS": triton.next_power_of_2(heads), "HALF": triton.next_power_of_2(width // 2)}
    strides = (*x.stride()[:3], *y.stride()[:3])
    _rotate[(batch * positions,)](x, cos, sin, y, heads, positions, width // 2, *strides, BACK=back, **blocks)
    return y
