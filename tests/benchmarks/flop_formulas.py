"""torch's counters of operations, with those of the fused products that it does not know."""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

__all__ = ["FlopCounterMode", "flop_registry"]


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def linear_flop(x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of x W^T for x [..., k] and W [n, k] (`interp.model.cpu_kernels`)."""
    return 2 * prod(x_shape) * w_shape[0]


@register_flop_formula(torch.ops.aten._addmm_activation)
def activated_flop(bias_shape: Any, x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of x W for x [m, k] and W [k, n] (the tower's MLP in `interp.model.fused`)."""
    return 2 * prod(x_shape) * w_shape[1]
