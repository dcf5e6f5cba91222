"""torch's counters of operations, and that of the products of `interp.model.cpu_kernels`."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

__all__ = ["FlopCounterMode", "flop_registry"]


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def linear_flop(x_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    """Operations [FLOP] of x W^T for x [..., k] and W [n, k]."""
    rows = 1
    for size in x_shape[:-1]:
        rows *= size
    return 2 * rows * w_shape[0] * w_shape[1]
