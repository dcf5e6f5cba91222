"""torch's counters of operations, with those of the products that it does not know.

Before version 2.12 it also refuses to count attention whose query heads share key heads.
"""

from contextlib import ExitStack
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import flop_registry, register_flop_formula, shape_wrapper

__all__ = ["FlopCounterMode", "flop_registry"]


class FlopCounterMode(flop_counter.FlopCounterMode):
    """torch's counter. While it is open, PyTorch's kernels run in place of ours, in which it sees no products."""

    def __enter__(self) -> "FlopCounterMode":
        self._without_ours = ExitStack()
        for fits in ("interp.model.attention.fits_tower", "interp.model.key_heads.fits_masked"):
            self._without_ours.enter_context(patch(fits, lambda *_: False))
        unseeded = patch("finetune.lora.fused_update._seeds", lambda modules: [None] * len(modules))
        self._without_ours.enter_context(unseeded)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._without_ours.close()


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def linear_flop(x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of x W^T for x [..., k] and W [n, k] (`interp.model.cpu_kernels`)."""
    return 2 * prod(x_shape) * w_shape[0]


@register_flop_formula(torch.ops.aten._addmm_activation)
def activated_flop(bias_shape: Any, x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of x W for x [m, k] and W [k, n] (the tower's MLP in `interp.model.fused`)."""
    return 2 * prod(x_shape) * w_shape[1]


@register_flop_formula(torch.ops.aten.addmm_)
def added_flop(y_shape: Any, x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of y += x W for x [m, k] and W [k, n] (`finetune.lora.fused_update`)."""
    return 2 * prod(x_shape) * w_shape[1]


def attention_flop(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of attention of queries [B, heads, q, d] over [B, key heads, k, d]: scores and sums."""
    return 2 * prod(q_shape[:3]) * k_shape[2] * (q_shape[3] + v_shape[3])


def attention_backward_flop(_dy: Any, q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of its gradient: the scores again, and the gradients of weights, values, queries and keys."""
    return 2 * prod(q_shape[:3]) * k_shape[2] * (3 * q_shape[3] + 2 * v_shape[3])


for kernel in ("efficient", "flash", "cudnn"):
    attention = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention")
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_attention_backward")
    flop_registry[attention] = shape_wrapper(attention_flop)
    flop_registry[backward] = shape_wrapper(attention_backward_flop)
