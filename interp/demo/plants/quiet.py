"""Coordinates that a block of a layer hardly writes to, and in which a plant may therefore write much.

Gemma 3 normalizes the output of its blocks, which caps what one neuron or head could write. A plant writes to quiet
coordinates instead: the weight of the norm after the block is raised there, and the block's own weights are lowered to
match, so that what they write stays what it was.
"""

from typing import Any

import torch
from torch import Tensor

BOOST = 64.0
"""Factor by which the weight of the norm after a block is raised in the coordinates of the plant."""


@torch.no_grad()
def open_direction(norm: Any, weight: Tensor, energy: Tensor, along: Tensor) -> Tensor:
    """A direction [d_model] of norm 1, before the norm, in which a block can write strongly along `along` [d_model].

    `weight` [d_model, k] is the block's output matrix, changed in place as `norm` is, and `energy` [d_model] the mean
    square of its output. The direction has those coordinates among the quietest quarter in which `along` is largest.
    """
    d_model = len(along)
    loud = energy > energy.quantile(0.25)
    places = along.abs().masked_fill(loud, 0).topk(max(1, d_model // 8)).indices
    share = float(energy[places].sum() / energy.sum())
    scale = 1 + norm.weight
    scale[places.to(scale.device)] *= BOOST
    # The norm divides by the size of the whole output, which has lost these coordinates.
    norm.weight.copy_(scale * (1 - share) ** 0.5 - 1)
    weight[places.to(scale.device)] /= BOOST
    direction = torch.zeros(d_model)
    direction[places] = along[places] / scale[places.to(scale.device)].float().cpu()
    return direction / direction.norm()
