"""A call of every kernel as the model makes it, so that it can be compiled or loaded before it is needed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from interp.model.shape import ModelShape

Ones = Callable[..., Tensor]
"""Makes a tensor of ones, of the sizes given, on the model's GPU and in its dtype."""
ROWS = 16
"""Rows of the tensors in a call."""


def kernel_calls(shape: ModelShape, device: torch.device, dtype: torch.dtype, learns: bool) -> list[Callable[[], None]]:
    """Calls of all kernels, forward and backward, for a model of this shape whose weights have `dtype`.

    Without `learns`, attention's gradient is left out, which only passes through whole rows of prompts need.

    Triton compiles a variant of a kernel for each width. The calls import what they call, and each may have a thread
    of its own once the first, of a small kernel, has been made.
    """
    ones = partial(torch.ones, device=device, dtype=dtype)
    return [
        partial(_gelu, ones, shape.mlp),
        partial(_tower_attention, ones),
        partial(_tower_norm, ones, shape.tower_width),
        partial(_masked_attention, ones, shape.heads, shape.kv_heads, shape.head, learns),
        *(partial(_norm, ones, width) for width in {shape.width, shape.head}),
        *(partial(_residual_norm, ones, shape.width, *p) for p in ((False, True), (True, True), (True, False))),
        partial(_rotated_heads, ones, shape.heads, shape.kv_heads, shape.head),
    ]


def _norm(ones: Ones, width: int) -> None:
    from interp.model.triton_kernels.norm import RmsNorm

    x = ones(ROWS, width, requires_grad=True)
    RmsNorm.apply(x, ones(width), 1e-6).sum().backward()


def _residual_norm(ones: Ones, width: int, added: bool, follows: bool) -> None:
    """Call the kernel with a norm whose result is `added`, and with one that `follows`."""
    from interp.model.triton_kernels.residual_norm import ResidualNorm

    x, weight = ones(ROWS, width, requires_grad=True), ones(width)
    given = (x if added else None, x, weight if added else None, weight if follows else None)
    total, normed = ResidualNorm.apply(*given, 1e-6)
    (total if normed is None else total + normed).sum().backward()


def _gelu(ones: Ones, width: int) -> None:
    from interp.model.triton_kernels.gelu import GatedGelu

    x = ones(ROWS, width, requires_grad=True)
    GatedGelu.apply(x, x).sum().backward()


def _rotated_heads(ones: Ones, heads: int, kv_heads: int, width: int) -> None:
    from interp.model.triton_kernels.rotary import RotatedHeads

    query, key = (ones(1, ROWS, number * width, requires_grad=True) for number in (heads, kv_heads))
    weight, angle = ones(width), ones(1, ROWS, width)
    query, key = RotatedHeads.apply(query, key, weight, weight, angle, angle, 1e-6)
    (query.sum() + key.sum()).backward()


def _masked_attention(ones: Ones, heads: int, kv_heads: int, width: int, learns: bool) -> None:
    from interp.model.key_heads import FEWEST, fits_masked

    mask = ones(1, 1, FEWEST, FEWEST)
    for learning in sorted({False, learns}):
        query, key = (
            ones(1, FEWEST, number, width, requires_grad=learning).transpose(1, 2) for number in (heads, kv_heads)
        )
        # Which compares it with PyTorch first.
        if fits_masked(query, key, key, mask):
            from interp.model.triton_kernels.masked_attention import MaskedAttention

            MaskedAttention.apply(query, key, key, mask, 1.0)


def _tower_norm(ones: Ones, width: int) -> None:
    from interp.model.triton_kernels.layer_norm import layer_norm

    x = ones(ROWS, width)
    with torch.no_grad():
        norm = torch.nn.LayerNorm(width, device=x.device, dtype=x.dtype)
        layer_norm(x, norm)
        layer_norm(x, norm, x)


def _tower_attention(ones: Ones) -> None:
    from interp.model.tower_attention import D_HEAD, STEP, fits_tower

    fits_tower(ones(1, 1, STEP, D_HEAD), None)
