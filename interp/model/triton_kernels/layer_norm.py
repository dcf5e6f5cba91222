"""The vision tower's layer norm, with the sum before it, as one GPU kernel.

y = (s - mean(s)) / sqrt(var(s) + eps) * w + b with s = x + added, in float32 whatever the dtype of x. PyTorch reads and
writes the residual stream twice for this, and its layer norm alone takes as long as the kernel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _forward(x, added, w, b, total, y, n, eps, ADDED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < n
    value = tl.load(x + row * n + column, mask=inside, other=0.0).to(tl.float32)
    if ADDED:
        value += tl.load(added + row * n + column, mask=inside, other=0.0).to(tl.float32)
        # What follows reads the sum as it is kept, rounded.
        kept = value.to(total.dtype.element_ty)
        tl.store(total + row * n + column, kept, mask=inside)
        value = kept.to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value) / n, 0.0)
    # The first mean is rounded, which shows where all channels are nearly alike.
    centred = tl.where(inside, centred - tl.sum(centred) / n, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred) / n + eps)
    gain = tl.load(w + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(b + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * n + column, (centred * inverse * gain + shift).to(y.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`x` + `added`, or `x` if there is none, and `norm` of it: both [..., n]; the inputs are contiguous."""
    total, y = x if added is None else torch.empty_like(x), torch.empty_like(x)
    n = x.shape[-1]
    with torch.cuda.device(x.device):
        _forward[(x.numel() // n,)](
            x, added, norm.weight, norm.bias, total, y, n, norm.eps, added is not None, triton.next_power_of_2(n)
        )
    return total, y
