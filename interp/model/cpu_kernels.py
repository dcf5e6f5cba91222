"""Kernels for a CPU: products by oneDNN, which torch brings, in place of MKL's, fewer passes for norms and GELU.

MKL's float32 products use half of the width of vector units on processors that are not Intel's: 113 GFLOP/s on a core
of an AMD EPYC with AVX-512, where oneDNN reaches 250. And a row's result then has the same bits whatever is
computed beside it, which MKL does not promise for fewer than four rows.
"""

import math
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from interp.model.packing import padded

GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBE = 0.044715
"""GELU(x) in its tanh approximation is x sigmoid(GELU_SCALE (x + GELU_CUBE x^3)), because 1 + tanh(u) = 2 sigmoid(2u)
(Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
ROWS = 128
"""Rows are padded to a multiple of this number, and fewer to a power of two."""


def use_cpu_kernels(model: Any) -> None:
    """Make the products, norms and activations of a Gemma 3 `model` use these kernels for float32 on a CPU, in place.

    Weights and transformers' classes are unchanged: modules get a `forward` of their own, which falls back to the
    class's one for everything else, such as trained weights.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for module in model.modules():
        kind = type(module)
        if kind is torch.nn.Linear:
            module.forward = MethodType(_linear, module)
        elif kind.__name__ == "Gemma3RMSNorm":
            module.forward = MethodType(_norm, module)
        elif kind.__name__ == "GELUTanh":
            module.forward = MethodType(_gelu, module)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b of float32 on a CPU: [..., k] x [n, k] -> [..., n].

    A row's result does not depend on the other rows, not in its last bit. Without a gradient of its own; see
    `_Product`.
    """
    rows = x.reshape(-1, x.shape[-1])
    # Of a small batch, checks and Python's len take longer than the product.
    count = rows.shape[0]
    surplus = padded_rows(count) - count
    filled = functional.pad(rows, (0, 0, 0, surplus)) if surplus else rows
    found = torch.ops.mkldnn._linear_pointwise(filled.contiguous(), weight, bias, "none", [], "")
    return found[:count].view(*x.shape[:-1], -1)


def padded_rows(n: int) -> int:
    """The number of rows to which n are padded.

    oneDNN compiles code for every number of rows, 1 MB each, and adds up a single row in another order.
    """
    if n < ROWS:
        return max(2, 1 << (n - 1).bit_length())
    # At most eight numbers from one power of two to the next.
    return padded(n, max(ROWS, 1 << (n.bit_length() - 4)))


class _Product(torch.autograd.Function):
    """`product` with frozen weights and its gradient with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        # So that gradients have gradients.
        return _Product.apply(grads[0], weight.T, None), None, None


def _fits(x: Tensor) -> bool:
    """Whether `x` is float32 on a CPU, outside of torch's transforms of functions."""
    return x.is_cpu and x.dtype == torch.float32 and x.numel() > 0 and not _transformed()


def _frozen(weight: Tensor) -> bool:
    """Whether a weight is float32 on a CPU and not trained."""
    return weight.is_cpu and weight.dtype == torch.float32 and not weight.requires_grad


def _transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or torch.compile looks on, to which the product is opaque."""
    forward = torch.autograd.forward_ad._current_level >= 0
    return forward or torch._C._functorch.peek_interpreter_stack() is not None or torch.compiler.is_compiling()


def _records(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _linear(module: Any, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    if not (_fits(x) and _frozen(weight) and (bias is None or _frozen(bias))):
        return type(module).forward(module, x)
    return _Product.apply(x, weight, bias) if _records(x) else product(x, weight, bias)


def _norm(module: Any, x: Tensor) -> Tensor:
    if not (_fits(x) and _frozen(module.weight)):
        return type(module).forward(module, x)
    # Queries and keys arrive with heads and positions transposed; undoing that here avoids a copy.
    exchanged = x.dim() == 4 and not x.is_contiguous() and x.transpose(1, 2).is_contiguous()
    rows = x.transpose(1, 2) if exchanged else x
    y = _norm_of_rows(rows, 1 + module.weight, module.eps)
    return y.transpose(1, 2) if exchanged else y


def _norm_of_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if _records(x):
        return functional.rms_norm(x, weight.shape, weight, eps)
    # torch's own function writes the squares to memory, and takes a third longer.
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return (x * squares.div_(x.shape[-1]).add_(eps).rsqrt_()).mul_(weight)


def _gelu(module: Any, x: Tensor) -> Tensor:
    if not _fits(x) or _records(x):
        return type(module).forward(module, x)
    # torch's own kernel takes twice as long, and where x is far below 0 its 1 + tanh loses digits.
    inner = (x * x).mul_(GELU_SCALE * GELU_CUBE).add_(GELU_SCALE).mul_(x)
    return inner.sigmoid_().mul_(x)
