"""torch's counters of operations, with those of the products that it does not know.

Before version 2.12 it also refuses to count attention whose query heads share key heads.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, shape_wrapper

__all__ = ["FlopCounterMode", "flop_registry"]


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
