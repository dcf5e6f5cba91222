"""The gated activation of Gemma's MLP as one forward and one backward GPU kernel.

y = gelu(g) * u with gelu(g) = g / 2 * (1 + tanh(z)), z = sqrt(2 / pi) * (g + 0.044715 g³): the approximation of
Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2, which transformers calls `gelu_pytorch_tanh`. It is computed in
float32 whatever the dtype, and rounded once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2048
"""Number of elements per program."""


@triton.jit
def _tanh_of(g):
    # tanh(z) = 2 / (1 + exp(-2 z)) - 1
    return 2 * tl.sigmoid(1.5957691216057308 * (g + 0.044715 * g * g * g)) - 1


@triton.jit
def _forward(gate, up, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, (0.5 * g * (1 + _tanh_of(g)) * u).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(dy, gate, up, dgate, dup, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    pull = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    t = _tanh_of(g)
    slope = 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * 0.7978845608028654 * (1 + 0.134145 * g * g)
    tl.store(dgate + at, (pull * u * slope).to(dgate.dtype.element_ty), mask=inside)
    tl.store(dup + at, (pull * 0.5 * g * (1 + t)).to(dup.dtype.element_ty), mask=inside)


class GatedGelu(torch.autograd.Function):
    """gelu(gate) * up of two contiguous tensors of the same shape, with gradients for both."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # noqa: D102
        y = torch.empty_like(gate)
        _forward[_grid(gate)](gate, up, y, gate.numel(), BLOCK=BLOCK)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _backward[_grid(gate)](gradients[0].contiguous(), gate, up, dgate, dup, gate.numel(), BLOCK=BLOCK)
        return dgate, dup


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK),)
